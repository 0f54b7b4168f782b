"""What a run does about steps that had no effect: tell of them, go back, or give up."""

from functools import partial

from maskrestore.monitoring.health import Report
from maskrestore.runs import run_folder
from maskrestore.runs.checkpoint import drop_after
from maskrestore.training.monitor import Monitor
from maskrestore.training.saving import Saving
from maskrestore.training.setup import Run
from maskrestore.utils.errors import UserError

SMALLER = (
    "start again in another folder with a smaller learning rate, or with "
    "training.max_gradient_norm; metrics.jsonl names the samples"
)


class Judge:
    """Reads what the steps since the last time have brought, reports it, and goes back if it must.

    Nothing is saved that was not judged: a checkpoint of a sick run would be no way back.
    """

    def __init__(self, run: Run, saving: Saving, monitor: Monitor) -> None:
        self._run, self._saving, self._monitor = run, saving, monitor

    def if_due(self, saving_is_due: bool) -> bool:
        """Judge, at log_images and before each save; whether the run has gone back.

        Collective, and waits for the device once. UserError if it went back too often.
        """
        run = self._run
        if not (saving_is_due or run.has_passed(run.config.training.log_images)):
            return False
        if run.accelerator.is_main_process and run_folder.is_superseded(run.config.run):
            run.stop.ask()
        report = run.health.read()
        if report is None:
            return False
        self._tell_skipped(report)
        self._monitor.report(report)
        if report.bad_images:
            run.on_main(partial(self._go_back, report, report.bad_images))
        return report.bad_images is not None

    def _tell_skipped(self, report: Report) -> None:
        """Log each step that had no effect: the terms to blame, and the samples on their
        processes."""
        for bad in report.skipped:
            keys = self._run.gather(self._run.health.keys_of(bad.num_images))
            facts = {
                "images_after": bad.num_images,
                "terms": bad.terms,
                "processes": bad.processes,
                "keys": [key for process in bad.processes for key in keys[process]],
            }
            self._run.log.write({"skipped": facts})

    def _go_back(self, report: Report, images: tuple[int, int]) -> None:
        """Write down that the run goes back, and over which images it will pass."""
        config = self._run.config
        self._saving.finish()
        number, most = len(run_folder.rollbacks(config.run)), config.health.max_rollbacks
        if number >= most:
            raise UserError(
                f"{config.run}: {report.reason}, having gone back {number} times "
                f"(health.max_rollbacks={most}); {SMALLER}"
            )
        run_folder.add_rollback(config.run, images, report.reason, report.scales)
        drop_after(config.run / "checkpoints", images[0])  # taken while nothing went well
        then = "going back to the last checkpoint, then past these images"
        self._run.log.tell([f"{report.reason}: {then}"])


def check_end(run: Run) -> None:
    """UserError if the run ends with many steps that had no effect; a few cost but themselves."""
    config = run.config
    num_steps = config.total_images // config.training.batch_size
    if run.health.num_in_a_row >= max(1, min(config.health.max_skipped_steps, num_steps // 2)):
        raise UserError(f"{config.run}: {run.health.describe_streak()}; {SMALLER}")
