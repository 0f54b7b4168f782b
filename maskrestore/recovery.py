"""What a run does about steps that had no effect: tell of them, go back, or give up."""

from collections.abc import Callable
from typing import Any

from maskrestore import run_folder
from maskrestore.checkpoint import Saver
from maskrestore.config import RunConfig
from maskrestore.health import Health, Report
from maskrestore.settings import UserError

SMALLER = (
    "start again in another folder with a smaller learning rate, or with "
    "training.max_gradient_norm; metrics.jsonl names the samples"
)


def tell_skipped(
    log: run_folder.RunLog,
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


def go_back(config: RunConfig, report: Report, saver: Saver, log: run_folder.RunLog) -> None:
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
    run_folder.add_rollback(config.run, report.bad_images or (0, 0), report.reason)
    log.tell([f"{report.reason}: going back to the last checkpoint, then past these images"])


def check_end(config: RunConfig, health: Health) -> None:
    """UserError if the last steps of the run had no effect."""
    if health.in_doubt:
        raise UserError(f"{config.run}: {health.describe_streak()}; {SMALLER}")
