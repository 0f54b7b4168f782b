"""Restore masks with the mask generator of a finished run.

python restore.py checkpoint=runs/densify input=DIR output=DIR [images=DIR] [augment=true] ...
accelerate launch restore.py checkpoint=runs/densify input=DIR output=DIR

What it writes, and which settings are for what: docs/restoring.md.
"""

from collections.abc import Sequence

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.inference import RestoreConfig
from maskrestore.config.settings import parse
from maskrestore.distributed.places import num_processes


def main(words: Sequence[str]) -> int:
    """Parse, restore, and end with 2 if some masks could not be restored."""
    config = parse(RestoreConfig, words)
    num_processes()  # what is wrong with them is said before torch is imported

    from maskrestore.inference.restore import restore

    return restore(config)


if __name__ == "__main__":
    end_process(run_program(main, __doc__, RestoreConfig, as_several=True))
