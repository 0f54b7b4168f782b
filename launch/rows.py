"""What the run folders of a grid hold: an outcome per cell, a row of the table per row."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from launch.grid import Cell, Grid
from launch.state import State, read_state
from maskrestore.config import RunConfig
from maskrestore.drift import HARMLESS, read_run_config
from maskrestore.result import read_result
from maskrestore.settings import ConfigError, UserError, flatten

PAPER = {
    ("synthesis", "none"): (None, None, 62.9),
    ("densify", "none"): (68.5, 39.4, 157.7),
    ("densify", "ce_vgg_l1"): (86.5, 52.2, 68.4),
    ("densify", "ce"): (86.1, 42.1, 70.7),
    ("densify", "ce_vgg"): (85.8, 37.9, 71.1),
    ("densify", "ce_l1"): (86.2, 44.3, 68.2),
    ("super_resolution", "none"): (84.2, 57.6, 78.1),
    ("super_resolution", "ce_vgg_l1"): (93.8, 65.2, 65.4),
    ("super_resolution", "ce"): (93.3, 69.5, 69.2),
    ("super_resolution", "ce_vgg"): (93.7, 65.1, 65.5),
    ("super_resolution", "ce_l1"): (93.7, 70.6, 66.4),
}
"""Table 1 of Ahn & Sull (2021), task and loss -> accu in %, mIoU in %, FID (Cityscapes val)."""

TASKS = {"synthesis": "synthesis", "densify": "densification"}


@dataclass(frozen=True)
class Outcome:
    """A cell with what its run folder holds: its settings (until it is started, those that the
    grid gives it), and its result, empty until it is done. inputs: sha256 of what it was computed
    from. problem: why it is unreadable."""

    cell: Cell
    config: RunConfig
    state: State
    result: dict[str, Any]
    inputs: dict[str, str]
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
class Figure:
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

    def figure(self, name: str) -> Figure | None:
        """A figure over all seeds that are done; None if one of them has none."""
        values = [outcome.metric(name) for outcome in self.done]
        known = [value for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        if len(known) == 1:
            return Figure(known[0], None)
        spread = stdev(known) if all(map(math.isfinite, known)) else math.nan
        return Figure(fmean(known), spread)

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
    state = read_state(cell)
    saved = cell.folder / "config.yaml"
    try:
        config = read_run_config(saved) if saved.is_file() else cell.config
        result = read_result(cell.folder) if state.kind == "done" else {}
        return Outcome(cell, config, state, result, _read_inputs(cell))
    except (ConfigError, UserError) as error:
        problem = " ".join(str(error).splitlines())
        return Outcome(cell, cell.config, State("unreadable", state.progress), {}, {}, problem)


def _read_inputs(cell: Cell) -> dict[str, str]:
    """The first 12 digits of the sha256 of its data and code; a commit says less: +dirty is any."""
    try:
        inputs = json.loads((cell.folder / "inputs.json").read_text(encoding="utf-8"))
        code = hashlib.sha256(json.dumps(inputs["code"], sort_keys=True).encode()).hexdigest()
        return {"data (sha256)": str(inputs["data"])[:12], "code (sha256)": code[:12]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a run of before there was such a file


def paper_figures(config: RunConfig) -> tuple[float | None, float | None, float | None]:
    """The paper's accu in %, mIoU in % and FID for the same experiment; None where it has none."""
    of_paper = config.degrade.factor == 8 and config.degrade.sampling == "corner"
    if config.baseline != "input" or (config.task == "super_resolution" and not of_paper):
        return None, None, None
    loss = "none" if config.task == "synthesis" else config.loss
    return PAPER.get((config.task, loss), (None, None, None))


def task_name(config: RunConfig) -> str:
    """The task in the paper's words."""
    return TASKS.get(config.task, f"super-resolution {config.degrade.factor}x")


def loss_name(config: RunConfig) -> str:
    """The terms in the paper's spelling. VGG is said only where it is VGG19."""
    if config.task == "synthesis":
        return "-"
    if config.loss == "none":
        what = {"input": "input as it is", "fill": "nearest label", "realign": "realigned"}
        center = ", centre-sampled" if config.degrade.sampling == "center" else ""
        return f"none ({what[config.baseline]}{center})"
    perceptual = {"vgg19": "VGG", "lite0": "Lite0"}[config.perceptual.network]
    names = {"ce": "CE", "vgg": perceptual, "l1": "L1"}
    return "+".join(names[part] for part in config.loss.split("_"))


def beats_untrained(row: Row, rows: Sequence[Row], metric: str) -> bool:
    """Whether a trained row's mean is better than every untrained one that is given the same
    input."""
    figure = row.figure(metric)
    if not row.config.trains or figure is None:
        return True
    untrained = [
        other.figure(metric)
        for other in rows
        if not other.config.trains
        and other.config.task == row.config.task
        and other.config.degrade == row.config.degrade
    ]
    return figure.mean > max((known.mean for known in untrained if known), default=0.0)
