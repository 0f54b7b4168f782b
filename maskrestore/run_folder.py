"""The run folder: what the run was started with, and its log."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Self, TextIO

from torch import Tensor
from tqdm import tqdm

from maskrestore.config import RunConfig
from maskrestore.drift import differing_keys, read_run_config
from maskrestore.files import file_sha256, lock, write_atomically
from maskrestore.manifest import data_sha256, read_manifest
from maskrestore.settings import ConfigError, UserError, to_yaml

INPUTS = "inputs.json"


def claim(config: RunConfig) -> TextIO:
    """Make the run folder and lock it; the run holds it until the returned file is closed.

    Raises ConfigError, naming the keys, if the folder was started with settings that would give
    another result; UserError if it was started with other data or weights, or if another process is
    at work on it.
    """
    try:
        held = lock(config.run)
    except OSError as error:
        raise UserError(f"run={config.run} cannot be written: {error.strerror}") from error
    try:
        _check_same(config)
    except BaseException:
        held.close()
        raise
    return held


def record(config: RunConfig) -> None:
    """Write down what the run is about to be computed from: config.yaml and inputs.json.

    Only now, so that a run that could not start leaves a folder which refuses nothing.
    """
    write_atomically(config.run / "config.yaml", to_yaml(config).encode())
    write_atomically(config.run / INPUTS, json.dumps(inputs(config), indent=1).encode())


def _check_same(config: RunConfig) -> None:
    path = config.run / "config.yaml"
    remedy = "give those again to resume it, or another folder as run=DIR"
    if path.exists():
        different = "\n  ".join(differing_keys(read_run_config(path), config))
        if different:
            raise ConfigError(
                f"{config.run} was started with other settings:\n  {different}\n{remedy}"
            )
    changed = "\n  ".join(changed_inputs(config))
    if changed:
        raise UserError(f"{config.run} was started with other files:\n  {changed}\n{remedy}")


def inputs(config: RunConfig) -> dict[str, str]:
    """sha256 of the files that the result depends on: data, image generator, VGG19's weights."""
    found = {"data": data_sha256(read_manifest(config.data.shards))}
    files = {
        "generator.path": None if config.trains_generator else config.generator.path,
        "perceptual.weights": config.perceptual.weights,
    }
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise UserError(f"{name}={path}: there is no such file")
        if path is not None:
            found[name] = file_sha256(path)
    return found


def changed_inputs(config: RunConfig) -> list[str]:
    """What the run was started with and what the settings name now, where they differ."""
    path = config.run / INPUTS
    if not path.exists():
        return []
    try:
        before = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error!r}; start in another folder") from error
    now = inputs(config)
    return [
        f"{name}: sha256 {str(before.get(name))[:12]} -> {str(now.get(name))[:12]}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


class RunLog:
    """metrics.jsonl, and the progress bar of the main process.

    Loss terms are summed on the device and read once per report: no step waits for the device.
    """

    def __init__(
        self, path: Path, num_images: int, total_images: int, is_main: bool, num_processes: int
    ) -> None:
        self._path = path
        self._num_processes = num_processes
        self._num_images = self._start = num_images
        self._total_images = total_images
        self._is_main = is_main
        self._last = {"evaluation": num_images, "checkpoint": num_images, "log": num_images}
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0
        self._since = (time.monotonic(), num_images)
        self._bar = tqdm(
            desc=path.parent.name,
            total=total_images,
            initial=num_images,
            unit="img",
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
            disable=not is_main or not total_images,
        )
        if is_main:
            self._forget_after(num_images)

    @property
    def num_trained_images(self) -> int:
        """Images seen since this process started or resumed the run."""
        return self._num_images - self._start

    def due(self, what: str, every: int) -> bool:
        """Whether a multiple of `every` images was passed since the last time."""
        passed = self._num_images // every > self._last[what] // every
        if passed:
            self._last[what] = self._num_images
        return passed

    def add(self, losses: dict[str, Tensor], num_images: int) -> None:
        """Count one step's unweighted loss terms, after which `num_images` were seen."""
        for name, loss in losses.items():
            self._sums[name] = self._sums[name] + loss if name in self._sums else loss
        self._num_steps += 1
        self._bar.update(num_images - self._num_images)
        self._num_images = num_images

    def means(self) -> dict[str, Tensor]:
        """Mean of each term over the steps since the last call, still on the device."""
        means = {name: total / self._num_steps for name, total in self._sums.items()}
        self._sums, self._num_steps = {}, 0
        return means

    def report(self, losses: dict[str, float], learning_rate_factor: float) -> None:
        """Append a line on the steps since the last one.

        Raises UserError if a loss is not finite.
        """
        now = time.monotonic()
        before, images_before = self._since
        self._since = (now, self._num_images)
        speed = (self._num_images - images_before) / max(now - before, 1e-9)
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
        self.write(
            {
                "losses": losses,
                "learning_rate_factor": learning_rate_factor,
                "images_per_second": speed,
                "num_processes": self._num_processes,
            }
        )
        bad = [name for name, value in losses.items() if not math.isfinite(value)]
        if bad:
            raise UserError(
                f"loss {', '.join(bad)} is not finite at image {self._num_images} of "
                f"{self._path.parent}: start again in another folder with a smaller learning rate"
            )

    def write(self, facts: dict[str, Any]) -> None:
        """Append one line of facts (main process only)."""
        if self._is_main:
            line = {"num_images": self._num_images, "total_images": self._total_images, **facts}
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def _forget_after(self, num_images: int) -> None:
        """Drop lines of steps that are about to be computed again."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["num_images"] <= num_images:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # the half-written last line of a run that was killed
        write_atomically(self._path, "".join(kept).encode())
