"""What is told of each step while a run trains: to Prometheus, the log, the bar, the watchdog."""

from collections.abc import Iterator
from contextlib import contextmanager

from maskrestore.distributed.processes import gather_tensor
from maskrestore.monitoring.health import Report
from maskrestore.training.setup import Run
from maskrestore.training.step import learning_rate_factor
from maskrestore.utils.stopping import Watchdog


class Monitor:
    """Of one process. Nothing in here changes what is computed, nor waits for the device."""

    def __init__(self, run: Run, watchdog: Watchdog) -> None:
        self._run, self._watchdog = run, watchdog

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step, from waiting for its batch to what all processes agreed on."""
        run = self._run
        run.telemetry.state("training")
        run.meter.begin()
        yield
        run.meter.end()
        run.log.advance(run.num_images)
        run.telemetry.step(run.num_images)
        self._watchdog.fed()

    def report(self, report: Report) -> None:
        """The steps since the last report. Collective where any process answers Prometheus."""
        run, objective = self._run, self._run.objective
        factor, gradient_scales = (
            learning_rate_factor(run.config, run.num_images),
            objective.scales(),
        )
        run.log.report(report, factor, gradient_scales)
        if not run.is_watched:
            return
        measured = run.meter.read()
        usage = gather_tensor(run.accelerator, measured.usage).tolist()
        rates = {phase.network: phase.learning_rate * factor for phase in objective.phases()}
        loss_scales = {name: float(engine.loss_scale()) for name, engine in run.engines.items()}
        run.telemetry.report(report, measured, usage, rates, loss_scales, gradient_scales)
