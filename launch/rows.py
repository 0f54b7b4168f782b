"""What the run folders of a grid hold: an outcome per cell, a row of the table per row."""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

DAMAGE = {
    "drop": "polygons left out",
    "scribbles": "scribbles",
    "boundary": "boundary errors",
    "labels": "label errors",
    "mixture": "mixture",
}
"""degradation -> what a row of the table calls it; the task's own goes without saying."""

BASELINES = {
    "input": "input as it is",
    "fill": "nearest label",
    "realign": "realigned",
    "bilinear": "bilinear",
}
RELAXATIONS = {"straight_through": "straight-through", "gumbel": "Gumbel"}
EDGES = {"soft": "soft edges", "zeros": "no edges", "instance": "upper bound: true edges"}
"""As these; softmax and argmax are the defaults."""


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
        return Outcome(
            cell, config, state, result, _read_inputs(cell), _read_resamples(cell) if result else {}
        )
    except (ConfigError, UserError) as error:
        problem = " ".join(str(error).splitlines())
        unreadable = State("unreadable", state.progress)
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
        found = json.loads((cell.folder / "resamples.json").read_text(encoding="utf-8"))
        return {"images": found["images"], "figures": dict(found["figures"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def paper_figures(config: RunConfig) -> tuple[float | None, float | None, float | None]:
    """The paper's accu in %, mIoU in % and FID for the same experiment; None where it has none."""
    if config.task == "synthesis":  # no mask is restored: nothing of the below is in it
        return PAPER["synthesis", "none"]
    if not _is_of_paper(config):
        return None, None, None
    return PAPER.get((config.task, config.loss), (None, None, None))


def _is_of_paper(config: RunConfig) -> bool:
    default = RunConfig()
    same = ["protocol", "degradation", "baseline"]
    same += ["condition", "relaxation"] if config.trains else []
    same += ["degrade"] if config.task == "super_resolution" else []
    return (
        all(getattr(config, name) == getattr(default, name) for name in same)
        and config.generator.edges == default.generator.edges
        and config.terms == RunConfig(loss=config.loss).terms
    )


def task_name(config: RunConfig) -> str:
    """The task in the paper's words, and what is not the paper's: the damage, the protocol."""
    name = TASKS.get(config.task, f"super-resolution {config.degrade.factor}x")
    if config.degradation in DAMAGE:
        name += f" ({DAMAGE[config.degradation]})"
    is_strict = config.protocol == "strict" and config.task != "synthesis"
    return f"{name}, strict" if is_strict else name


def loss_name(config: RunConfig) -> str:
    """The terms in the paper's spelling, and what else is not as in the paper. VGG is said only
    where it is VGG19."""
    if config.task == "synthesis":
        return "-"
    perceptual = {"vgg19": "VGG", "lite0": "Lite0"}[config.perceptual.network]
    names = {"ce": "CE", "perceptual": perceptual, "l1": "L1"}
    name = "+".join(
        names[term] if weight == 1 else f"{weight:g} {names[term]}"
        for term, weight in config.terms.items()
    )
    remarks = list(_variants(config))
    if not config.trains:
        name, remarks = "none", [BASELINES[config.baseline], *remarks]
    return f"{name} ({', '.join(remarks)})" if remarks else name


def _variants(config: RunConfig) -> Iterator[str]:
    sampled = config.task == "super_resolution" or config.degradation == "mixture"
    if sampled and config.degrade.sampling == "center" and config.protocol == "paper":
        yield "centre-sampled"  # protocol=strict samples so everywhere
    if config.trains and config.condition == "mask_image":
        yield "image-conditioned"
    if {"perceptual", "l1"} & set(config.terms) and config.relaxation in RELAXATIONS:
        yield RELAXATIONS[config.relaxation]
    if config.generator.edges in EDGES:
        yield EDGES[config.generator.edges]


def input_of(config: RunConfig) -> tuple[str, ...]:
    """What decides the incomplete masks; rows are compared where they agree in it."""
    smaller = config.task == "super_resolution"
    sampling = config.degrade.sampling if smaller or config.degradation == "mixture" else ""
    factor = str(config.degrade.factor) if smaller else ""
    return config.task, config.degradation, sampling, factor


def untrained_rivals(row: Row, rows: Sequence[Row]) -> list[Row]:
    """The untrained rows that are given the same input as a trained one; none for an untrained."""
    return [
        other
        for other in rows
        if row.config.trains
        and not other.config.trains
        and input_of(other.config) == input_of(row.config)
    ]
