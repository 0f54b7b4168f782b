"""What all processes do together at each step: go on, stop, or fail."""

from typing import Any

import torch.distributed

from maskrestore.config.run import RunConfig
from maskrestore.distributed.processes import Accelerator, patience
from maskrestore.monitoring.meter import COMMUNICATION
from maskrestore.training.saving import Saving
from maskrestore.training.setup import Run
from maskrestore.utils.errors import Interrupted, UserError

GO_ON, STOP, FAILED = 0, 1, 2
"""What a process votes for at each step; the largest vote counts."""


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


class Agreement:
    """Where a signal or a mistake on one process becomes everybody's."""

    def __init__(self, run: Run, saving: Saving) -> None:
        self._run, self._saving = run, saving
        self._ballot = Ballot(run.accelerator, run.config)
        self._mistake: UserError | None = None
        self._vote = GO_ON

    @property
    def is_to_leave(self) -> bool:
        """Whether some process has to end the run, as all know by now."""
        return self._vote != GO_ON

    def cast(self, mistake: UserError | None) -> None:
        """Vote: to fail by a mistake of this process, to stop by a signal, or to go on."""
        self._mistake = mistake or self._run.log.mistake
        has_failed = self._mistake or self._saving.has_failed
        self._ballot.cast(FAILED if has_failed else STOP if self._run.stop.signal else GO_ON)

    def count(self) -> None:
        """Hear what all have voted for."""
        self._run.meter.mark(COMMUNICATION)
        self._vote = self._ballot.count()

    def leave_if_agreed(self) -> None:
        """End the run on all processes together: Interrupted if it was asked to stop, else with the
        mistake of one of them."""
        if self._vote == GO_ON:
            return
        self._run.on_main(self._saving.finish)
        if self._vote == STOP:
            raise Interrupted(
                f"stopped as asked and saved at image {self._saving.last} of "
                f"{self._run.config.run}; the same command continues"
            )

        def tell() -> None:
            mistake = self._mistake or self._run.log.mistake
            if mistake is not None:
                raise mistake

        self._run.together(tell)
