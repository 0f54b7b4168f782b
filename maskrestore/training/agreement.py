"""What all processes do together: stop, fail, or go on."""

from collections.abc import Iterator
from typing import Any

import torch.distributed

from maskrestore.config.run import RunConfig
from maskrestore.data.loader import Batch
from maskrestore.distributed.processes import Accelerator, on_every_process, patience
from maskrestore.utils.errors import Interrupted, UserError


class Ballot:
    """One number from each process at each step; all learn the largest.

    It is cast before the step's work and counted after it, over a group of CPUs: nobody waits for
    a device, and all processes act on it at the same step. This is where a signal or a mistake on
    one process becomes everybody's; collectives in a signal handler would hang.
    """

    def __init__(self, accelerator: Accelerator, config: RunConfig) -> None:
        self._alone = accelerator.num_processes == 1
        self._group: Any = None
        if not self._alone and accelerator.device.type != "cpu":
            self._group = torch.distributed.new_group(backend="gloo", timeout=patience(config))
        self._vote = torch.zeros(1, dtype=torch.int64)
        self._work: Any = None

    def cast(self, vote: int) -> None:
        """Begin; every process calls it once before `count`."""
        self._vote = torch.tensor([vote])
        if not self._alone:
            self._work = torch.distributed.all_reduce(
                self._vote, torch.distributed.ReduceOp.MAX, self._group, async_op=True
            )

    def count(self) -> int:
        """The largest vote of all processes."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return int(self._vote)


GO_ON, STOP, FAILED = 0, 1, 2
"""What a process votes for at each step; the largest vote counts."""


def fetch(batches: Iterator[Batch], needed: bool) -> tuple[Batch | None, UserError | None]:
    """The next batch if one is needed, or what is wrong with its shard, which all processes then
    hear of together."""
    try:
        return (next(batches) if needed else None), None
    except UserError as error:
        return None, error


def end_early(
    accelerator: Accelerator,
    config: RunConfig,
    vote: int,
    mistake: UserError | None,
    last_saved: int | None,
) -> None:
    """Leave the run on all processes together: as asked to, or since one of them cannot go on."""
    if vote == STOP:
        raise Interrupted(
            f"stopped as asked and saved at image {last_saved} of {config.run}; "
            "the same command continues"
        )

    def tell() -> None:
        if mistake is not None:
            raise mistake

    on_every_process(accelerator, tell)
