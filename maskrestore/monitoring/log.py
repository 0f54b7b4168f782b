"""What a run tells while it goes on: metrics.jsonl, and the progress bar."""

import json
import sys
import time
from collections.abc import Iterable
from typing import Any, Self

from tqdm import tqdm

from maskrestore.config.run import RunConfig
from maskrestore.monitoring.health import Report
from maskrestore.runs.metrics_file import METRICS, read_metrics
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically


class RunLog:
    """metrics.jsonl, and the progress bar of the main process."""

    def __init__(
        self, config: RunConfig, num_images: int, is_main: bool, num_processes: int
    ) -> None:
        self._path = config.run / METRICS
        self._num_processes = num_processes
        self.mistake: UserError | None = None
        """Why the last line could not be written."""
        total_images = config.total_images
        self._num_images = num_images
        self._total_images = total_images
        self._is_main = is_main
        self._since = (time.monotonic(), num_images)
        self._bar = tqdm(
            desc=config.run.name,
            total=total_images,
            initial=num_images,
            unit="img",
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
            disable=not is_main or not total_images,
        )
        if is_main:
            self._forget_after(num_images)

    def advance(self, num_images: int) -> None:
        """`num_images` have been seen by now."""
        self._bar.update(num_images - self._num_images)
        self._num_images = num_images

    def report(
        self, report: Report, learning_rate_factor: float, gradient_scales: dict[str, float]
    ) -> None:
        """Append a line on the steps since the last one."""
        now = time.monotonic()
        before, images_before = self._since
        self._since = (now, self._num_images)
        speed = (self._num_images - images_before) / max(now - before, 1e-9)
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in report.losses.items()})
        self.write(
            {
                "losses": report.losses,
                "gradient_norms": report.gradient_norms,
                "gradient_scales": gradient_scales,
                "learning_rate_factor": learning_rate_factor,
                "skipped_steps": len(report.skipped),
                "lowered_loss_scale": report.num_lowered,
                "images_per_second": speed,
                "num_processes": self._num_processes,
            }
        )

    def tell(self, messages: Iterable[str]) -> None:
        """Messages for the user, above the progress bar (main process only)."""
        for message in messages if self._is_main else ():
            tqdm.write(message, file=sys.stderr)

    def write(self, facts: dict[str, Any]) -> None:
        """Append one line of facts (main process only)."""
        if self._is_main:
            line = {"num_images": self._num_images, "total_images": self._total_images, **facts}
            try:
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:  # the others must hear of it before this process ends
                self.mistake = UserError(f"{self._path} cannot be written: {error.strerror}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _forget_after(self, num_images: int) -> None:
        """Drop lines of steps that are about to be computed again."""
        if not self._path.exists():
            return
        lines = read_metrics(self._path.parent)
        kept = [line for line in lines if line["num_images"] <= num_images]
        write_atomically(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
