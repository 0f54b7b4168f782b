"""Restore masks with the mask generator of a finished run.

python restore.py checkpoint=runs/densify input=DIR output=DIR [images=DIR] [augment=true] ...
accelerate launch restore.py checkpoint=runs/densify input=DIR output=DIR

What it writes, and which settings are for what: docs/restoring.md.
"""

from collections.abc import Sequence

from maskrestore.program import end_process, run_program
from maskrestore.restore_config import RestoreConfig
from maskrestore.settings import parse


def main(words: Sequence[str]) -> int:
    """Parse, restore, and end with 2 if some masks could not be restored."""
    config = parse(RestoreConfig, words)

    from maskrestore.restoration import restore  # after parsing: torch takes seconds to import

    return restore(config)


if __name__ == "__main__":
    end_process(run_program(main, __doc__, RestoreConfig))
