"""Measure everything that this machine can, and write docs/performance.md's tables:

python -m benchmarks
python -m benchmarks only=frozen,step

Each benchmark runs in a process of its own; what it prints takes the place of its last table. They
are of CPUs: what a GPU has to answer is python -m benchmarks.gpu.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from maskrestore.config.cli import run_program
from maskrestore.config.settings import Section, parse
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import write_atomically

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BENCHMARKS = {
    "frozen": "frozen",
    "step": "step",
    "loader": "loader",
    "writing": "writing",
    "evaluation": "evaluation",
    "startup": "startup",
    "telemetry": "telemetry",
    "many_runs": "many_runs",
    "neighbour": "neighbour",
    "prior": "prior",
    "damage": "damage",
}
"""Name of the table -> module and its settings. Those that take longer (resume, scaling,
restore_folder) or are not figures of speed are run by themselves: benchmarks/README.md."""


def _split(value: object) -> object:
    return tuple(value.split(",")) if isinstance(value, str) else value


class AllConfig(Section):
    """Which to run."""

    only: Annotated[tuple[str, ...], BeforeValidator(_split)] = ()
    """Names of tables with commas between them; all if left out."""


def main(words: Sequence[str]) -> None:
    """Run one after the other; the page is written after each."""
    only = parse(AllConfig, words).only
    unknown = sorted(set(only) - set(BENCHMARKS))
    if unknown:
        raise ConfigError(f"only: no {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    failed = []
    for name in only or BENCHMARKS:
        module, *settings = BENCHMARKS[name].split()
        print(f"{name}: python -m benchmarks.{module} {' '.join(settings)}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{module}", *settings]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[1])
        if done.returncode:
            failed.append(name)
            continue
        print(done.stdout)
        write_atomically(PAGE, replaced(PAGE.read_text(), name, done.stdout).encode())
    if failed:
        raise UserError(f"failed, their tables are left as they were: {', '.join(failed)}")


def replaced(page: str, name: str, text: str) -> str:
    """The page with `text` between the marks of table `name`. UserError if it has no such marks."""
    begin, end = f"<!-- {name}: written by python -m benchmarks -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(page):
        raise UserError(f"{PAGE} has no place for the table {name}: write {begin}{end} there")
    return pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", page, count=1)


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", AllConfig))
