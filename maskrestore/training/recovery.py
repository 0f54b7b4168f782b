"""What a run does about steps that had no effect: tell of them, go back, or give up."""

from collections.abc import Callable
from typing import Any

from maskrestore.config.run import RunConfig
from maskrestore.monitoring.health import Health, Report
from maskrestore.monitoring.log import RunLog
from maskrestore.runs import run_folder
from maskrestore.runs.checkpoint import Saver, drop_after
from maskrestore.utils.errors import UserError

SMALLER = (
    "start again in another folder with a smaller learning rate, or with "
    "training.max_gradient_norm; metrics.jsonl names the samples"
)


def tell_skipped(
    log: RunLog,
    health: Health,
    report: Report,
    gather: Callable[[Any], list[Any]],
) -> None:
    """Log each step that had no effect: the terms to blame, and the samples on their processes."""
    for bad in report.skipped:
        keys = gather(health.keys_of(bad.num_images))
        facts = {
            "images_after": bad.num_images,
            "terms": bad.terms,
            "processes": bad.processes,
            "keys": [key for process in bad.processes for key in keys[process]],
        }
        log.write({"skipped": facts})


def go_back(config: RunConfig, report: Report, saver: Saver, log: RunLog) -> None:
    """Write down that the run goes back, and over which images it will pass.

    Raises UserError if it went back too often.
    """
    saver.wait()
    number, most = len(run_folder.rollbacks(config.run)), config.health.max_rollbacks
    if number >= most:
        raise UserError(
            f"{config.run}: {report.reason}, having gone back {number} times "
            f"(health.max_rollbacks={most}); {SMALLER}"
        )
    images = report.bad_images or (0, 0)
    run_folder.add_rollback(config.run, images, report.reason)
    drop_after(config.run / "checkpoints", images[0])  # taken while nothing went well
    log.tell([f"{report.reason}: going back to the last checkpoint, then past these images"])


def check_end(config: RunConfig, health: Health) -> None:
    """UserError if the run ends with many steps that had no effect; a few cost but themselves."""
    num_steps = config.total_images // config.training.batch_size
    if health.num_in_a_row >= max(1, min(config.health.max_skipped_steps, num_steps // 2)):
        raise UserError(f"{config.run}: {health.describe_streak()}; {SMALLER}")
