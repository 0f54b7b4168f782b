"""What every program does around its work: --help, the user's mistakes, Ctrl-C, exit status."""

import os
import select
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from typing import NoReturn

from maskrestore.config.settings import Section, describe, docstring
from maskrestore.utils.errors import ConfigError, Interrupted, UserError
from maskrestore.utils.launcher import forget_numbers, is_first_of_machine, is_first_process
from maskrestore.utils.streams import set_up_streams, why_words_are_lost
from maskrestore.utils.system import set_up_torch

RESUME_STATUS = 75
"""Exit status of a run that was asked to stop and saved: run the same command again (EX_TEMPFAIL
of sysexits.h)."""

OURS = ("maskrestore", "shards", "launch", "benchmarks")
"""Modules whose absence is a fault of the program."""


def run_program(
    main: Callable[[Sequence[str]], int | None],
    usage: str | None,
    schema: type[Section] | None,
    hidden: Collection[str] = (),
    as_several: bool = False,
) -> int:
    """Exit status of `main(words of the command line)`.

    as_several: launchers start this program as several processes, of which one speaks. Any other
    is alone and speaks, though a launcher's numbers were left in its shell.

    --help prints usage (None: the program's docstring) and schema, less the `hidden` settings; a
    program without settings has no schema. ConfigError, UserError, packages that are not installed
    and failures of the file system (a full disk, a folder without permission) become one message on
    stderr and status 2; Interrupted is RESUME_STATUS; Ctrl-C where nothing is to be saved is 130; a
    reader of our output that has gone, as in `| head`, is what a shell makes of SIGPIPE, 141,
    without a word.
    """
    set_up_streams()
    set_up_torch()
    if not as_several:
        forget_numbers()
    words = sys.argv[1:]
    try:
        if {"-h", "--help", "help"} & set(words):
            print((docstring(sys.modules["__main__"]) if usage is None else usage).strip())
            if schema is not None:
                print("\nSettings, as key=value (config=NAME reads configs/NAME.yaml):\n")
                print(describe(schema, hidden=hidden))
            status = 0
        else:
            status = main(words) or 0
        sys.stdout.flush()
        if lost := why_words_are_lost():
            print(f"stdout cannot be written: {lost.strerror}; the work is done", file=sys.stderr)
        return status
    except ConfigError as error:
        if is_first_of_machine():  # every process of a machine finds the same mistakes
            print(f"{error}\n(--help lists all settings)", file=sys.stderr)
        return 2
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith(OURS):
            raise
        print(
            f"the Python package of the module {error.name} is not installed, and this needs it: "
            "requirements.txt has it",
            file=sys.stderr,
        )
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _has_no_reader(sys.stdout.fileno()):
            # Python flushes once more as it ends, and would complain then.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{error.strerror or error}", file=sys.stderr)
        return 2
    except SystemExit as end:  # another process says what is wrong
        return int(end.code or 0)
    except Interrupted as stop:
        if is_first_process():
            print(stop, file=sys.stderr)
        return RESUME_STATUS
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from the last save", file=sys.stderr)
        return 130


def _has_no_reader(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def end_process(status: int) -> NoReturn:
    """End at once with this exit status, for programs of several processes.

    Where an exception still holds a process group, its threads sometimes abort the interpreter on
    its way out ("terminate called without an active exception"), and the status is lost. Launchers
    lose it too (torchrun and accelerate launch end with 1 of their own), so the first process also
    leaves it in the file that MASKRESTORE_STATUS names.
    """
    left_in = os.environ.get("MASKRESTORE_STATUS")
    if left_in and is_first_process():
        with open(left_in, "w", encoding="utf-8") as file:
            file.write(str(status))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
