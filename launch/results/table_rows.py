"""What the run folders of a grid hold: an outcome per cell, a row of the table per row."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from launch.grid.cells import Cell, Grid
from launch.grid.state import Progress, State, read_state
from launch.results.names import input_of, sees_image
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import flatten
from maskrestore.runs.result import read_result
from maskrestore.runs.resume_check import HARMLESS, read_run_config
from maskrestore.utils.errors import ConfigError, UserError


@dataclass(frozen=True)
class Outcome:
    """A cell with what its run folder holds: its settings (until it is started, those that the
    grid gives it), and its result, empty until it is done. inputs: sha256 of what it was computed
    from. resamples: what SegmentationMetrics has by this name, empty of a run of before there was
    such a file. problem: why it is unreadable."""

    cell: Cell
    config: RunConfig
    state: State
    result: dict[str, Any]
    inputs: dict[str, str]
    resamples: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def metric(self, name: str) -> float | None:
        """A figure of the result; None if it is not there or does not apply."""
        value = self.result.get("metrics", {}).get(name)
        return None if value is None else float(value)

    @property
    def seed(self) -> Any:
        """The seed that it was run with; until it is done, the one that it is given."""
        return self.result.get("seed", self.config.seed)

    @property
    def facts(self) -> dict[str, Any]:
        """How the result was made: everything of it that seeds of one row have in common."""
        settings = flatten(self.config.model_dump(mode="json"))
        made = {key: value for key, value in settings if key not in (*HARMLESS, "seed")}
        made["num_samples"] = self.result["metrics"].get("num_samples")
        apart = ("metrics", "seed")
        rest = {key: value for key, value in self.result.items() if key not in apart}
        return made | dict(flatten(rest)) | self.inputs


@dataclass(frozen=True)
class SeedMean:
    """A figure of a row: the mean over its seeds, and their sample standard deviation (n - 1);
    None of a single one."""

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Row:
    """A row of the grid file with its cells, one per seed; its figures are of those done."""

    name: str
    outcomes: tuple[Outcome, ...]

    @property
    def done(self) -> list[Outcome]:
        """The cells that have a result."""
        return [outcome for outcome in self.outcomes if outcome.state.kind == "done"]

    @property
    def unfinished(self) -> list[Outcome]:
        """The cells that have none, or none that can be read."""
        return [outcome for outcome in self.outcomes if outcome.state.kind != "done"]

    @property
    def config(self) -> RunConfig:
        """What the row is: the settings behind its figures; `differences` tells where several."""
        return (self.done or self.outcomes)[0].config

    @property
    def generator(self) -> Path | None:
        """The image generator that the grid gives it."""
        return self.outcomes[0].cell.config.generator.path

    def figure(self, name: str) -> SeedMean | None:
        """A figure over all seeds that are done; None if one of them has none."""
        values = [outcome.metric(name) for outcome in self.done]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        if len(known) == 1:
            return SeedMean(known[0], None)
        spread = stdev(known) if all(map(math.isfinite, known)) else math.nan
        return SeedMean(fmean(known), spread)

    def differences(self) -> list[str]:
        """What differs among the cells behind its figures and should not: `key: value / value`."""
        made = [outcome.facts for outcome in self.done]
        keys = dict.fromkeys(key for facts in made for key in facts)
        shown = {key: dict.fromkeys(str(facts.get(key)) for facts in made) for key in keys}
        return [f"{key}: {' / '.join(values)}" for key, values in shown.items() if len(values) > 1]


def read_rows(grid: Grid) -> list[Row]:
    """The rows in the order of the grid file."""
    rows: dict[str, list[Outcome]] = {}
    for cell in grid.cells:
        rows.setdefault(cell.row, []).append(_read_outcome(cell))
    return [Row(name, tuple(outcomes)) for name, outcomes in rows.items()]


def _read_outcome(cell: Cell) -> Outcome:
    saved = cell.folder / "config.yaml"
    try:
        state = read_state(cell)
        config = read_run_config(saved) if saved.is_file() else cell.config
        result = read_result(cell.folder) if state.kind == "done" else {}
        return Outcome(
            cell, config, state, result, _read_inputs(cell), _read_resamples(cell) if result else {}
        )
    except (ConfigError, UserError) as error:
        problem = " ".join(str(error).splitlines())
        unreadable = State("unreadable", Progress(0, cell.config.total_images, {}))
        return Outcome(cell, cell.config, unreadable, {}, {}, problem=problem)


def _read_inputs(cell: Cell) -> dict[str, str]:
    """The first 12 digits of the sha256 of its data and code; a commit says less: +dirty is any."""
    try:
        inputs = json.loads((cell.folder / "inputs.json").read_text(encoding="utf-8"))
        code = hashlib.sha256(json.dumps(inputs["code"], sort_keys=True).encode()).hexdigest()
        return {"data (sha256)": str(inputs["data"])[:12], "code (sha256)": code[:12]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a run of before there was such a file


def _read_resamples(cell: Cell) -> dict[str, Any]:
    try:
        content = json.loads((cell.folder / "resamples.json").read_text(encoding="utf-8"))
        return {"images": content["images"], "figures": dict(content["figures"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def untrained_rivals(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The untrained rows that are given the same input as a trained one, and see the image only if
    it does; none for an untrained."""
    return [
        other
        for other in rows
        if row.config.trains
        and not other.config.trains
        and input_of(other.config) == input_of(row.config)
        and other.generator == row.generator
        and sees_image(other.config) <= sees_image(row.config)
    ]
