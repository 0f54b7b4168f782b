"""The table of a grid as it is read: every field as text, the same in markdown and in LaTeX."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.grid.cells import Grid, generator_names
from launch.results.gains import gain
from launch.results.names import TASKS, loss_name, paper_figures, task_name
from launch.results.table_rows import Outcome, Row, SeedMean
from maskrestore.runs.figures import DISTANCES, FIGURES, HEADLINES

GAINED = ("accu_unannotated", "boundary_f3")
"""Figures of the second table, beside those that count."""

GAINS_TITLE = (
    "What training gains: points more than the untrained row that is best in the figure, of the "
    "same task and input, with 95 % intervals (paired bootstrap over the val images)"
)

WEAK, UNSURE = "†", "‡"

DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
"""What footnotes are numbered with."""


@dataclass(frozen=True)
class Line:
    """A row of the table. runs: how many seeds are done, and the mark of its footnote. state: where
    it stands while there are no figures."""

    task: str
    loss: str
    runs: str
    state: str
    ours: tuple[str, ...]
    paper: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """ours: headings of our columns. has_seeds: whether there is a column of `runs`. facts: how our
    figures were made. gains: a second table of trained rows against untrained ones, its head first;
    or nothing. notes explain the marks, footnotes one row each, problems say what could not be
    read."""

    title: str
    has_seeds: bool
    facts: tuple[str, ...]
    ours: tuple[str, ...]
    lines: tuple[Line, ...]
    gains: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    footnotes: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def is_quoted(self) -> bool:
        """Whether the paper has any of these rows."""
        return any(text != "-" for line in self.lines for text in line.paper)


def make_table(grid: Grid, rows: Sequence[Row]) -> Table:
    """The table of what the run folders hold by now."""
    outcomes = [outcome for row in rows for outcome in row.outcomes]
    keys, num_evaluated = columns(rows), len(rows[0].config.data.labels.evaluated)
    has_seeds = any(len(row.outcomes) > 1 for row in rows)
    lines: list[Line] = []
    footnotes: list[str] = []
    through = _generators(rows)
    for row in rows:
        remark, number = _remark(row), ""
        if remark:
            number = "".join(DIGITS[int(digit)] for digit in str(len(footnotes) + 1))
            footnotes.append(f"{number} {row.name}: {remark}")
        lines.append(_line(row, rows, keys, number, through.get(row.generator, "")))
    return Table(
        title=f"{grid.name}: {grid.folder.name}",
        has_seeds=has_seeds,
        facts=tuple(_facts(outcomes, has_seeds)),
        ours=tuple(FIGURES[key].heading(num_evaluated) for key in keys),
        lines=tuple(lines),
        gains=tuple(_gains(rows, through)),
        notes=tuple(_notes(keys, lines, has_seeds, num_evaluated)),
        footnotes=tuple(footnotes),
        problems=tuple(f"{o.cell.name}: {o.problem}" for o in outcomes if o.problem),
    )


def counting(rows: Sequence[Row]) -> tuple[str, ...]:
    """The figures that count, those of the rows' protocol; of both protocols, the paper's."""
    restoring = [row for row in rows if row.config.task != "synthesis"]
    is_strict = restoring and all(row.config.protocol == "strict" for row in restoring)
    return HEADLINES["strict" if is_strict else "paper"]


def columns(rows: Sequence[Row]) -> list[str]:
    """Keys of our columns: the figures that count, beside the paper's mIoU that over all ids, and
    the distances that any row has."""
    keys = counting(rows)
    beside = ["miou_all"] if keys == HEADLINES["paper"] else []
    return [*keys, *beside, *(key for key in DISTANCES if any(row.figure(key) for row in rows))]


def mark(row: Row, rows: Sequence[Row], key: str) -> str:
    """Of a trained row that is not better than the best untrained one, or not surely, in a figure
    that counts."""
    margin = gain(row, rows, key) if key in counting(rows) else None
    if margin is None or (margin.value > 0 and margin.is_sure):
        return ""
    return UNSURE if margin.value > 0 else WEAK


def shown(key: str, figure: SeedMean | None) -> str:
    """A figure as text, with its spread."""
    return "-" if figure is None else FIGURES[key].text(figure.mean, figure.spread)


def _notes(
    keys: Iterable[str], lines: Iterable[Line], has_seeds: bool, num_evaluated: int
) -> list[str]:
    """What the headings leave open, and the marks that occur."""
    notes = ["Distances: lower is better. accu and mIoU in %."]
    captioned = [FIGURES[key] for key in keys if FIGURES[key].caption]
    notes += [f"{figure.heading(num_evaluated)}: {figure.caption}." for figure in captioned]
    marks = {field[-1] for line in lines for field in line.ours}
    if WEAK in marks:
        trained = "Trained, but in the mean over its seeds" if has_seeds else "Trained, but"
        notes.append(
            f"{WEAK} {trained} no better than the best untrained row of the same task and input."
        )
    if UNSURE in marks:
        notes.append(
            f"{UNSURE} Better than the best untrained row, but not surely: not with every seed, or "
            "the 95 % interval of the difference (paired bootstrap over the val images) holds 0."
        )
    if has_seeds:
        notes.append(
            "± Sample standard deviation (n - 1) over the seeds that are done. All seeds use the "
            "same image generator: what another one would change is not in it."
        )
    return notes


def _generators(rows: Sequence[Row]) -> dict[Path | None, str]:
    """What tells the rows' image generators apart; nothing where they have the same one."""
    files = list(dict.fromkeys(row.generator for row in rows if row.generator is not None))
    names = generator_names(files) if len(files) > 1 else {}
    return {row.generator: names[row.generator] for row in rows if row.generator in names}


def _gains(rows: Sequence[Row], through: Mapping[Path | None, str]) -> list[tuple[str, ...]]:
    keys = [*counting(rows), *GAINED]
    lines, last_task = [], ""
    for row in rows:
        margins = [gain(row, rows, key) for key in keys]
        if any(margins):
            task = task_name(row.config)
            texts = ["-" if margin is None else margin.text() for margin in margins]
            loss = loss_name(row.config, through.get(row.generator, ""))
            lines.append(("" if task == last_task else task, loss, *texts))
            last_task = task
    num_evaluated = len(rows[0].config.data.labels.evaluated) if rows else 0
    headings = [FIGURES[key].heading(num_evaluated) for key in keys]
    return [("task", "loss", *headings), *lines] if lines else []


def _line(row: Row, rows: Sequence[Row], keys: Iterable[str], footnote: str, through: str) -> Line:
    ours = [f"{shown(key, row.figure(key))} {mark(row, rows, key)}".strip() for key in keys]
    return Line(
        task=task_name(row.config),
        loss=loss_name(row.config, through),
        runs=f"{_runs(row)} {footnote}".strip(),
        state="" if row.done else _states(row),
        ours=tuple(ours),
        paper=tuple(
            "-" if value is None else f"{value:.1f}" for value in paper_figures(row.config)
        ),
    )


def _runs(row: Row) -> str:
    """How many of a row's seeds are behind its figures; nothing is drawn in an untrained row."""
    num_done, num_seeds = len(row.done), len(row.outcomes)
    if num_seeds == 1:
        return "1 seed" if row.config.trains and row.done else "-"
    return (
        f"{num_seeds} seeds" if num_done == num_seeds else f"{num_done} of {num_seeds} seeds done"
    )


def _states(row: Row) -> str:
    """Where the cells of a row stand, each state once: `running 40 %, 2 missing`."""
    counts = Counter(str(outcome.state) for outcome in row.outcomes)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{n} {state}" if n > 1 else state for state, n in counts.items())


def _remark(row: Row) -> str:
    """What a reader must know of a mean over seeds; empty if they are whole and made alike."""
    if len(row.outcomes) == 1 or not row.done:
        return ""
    remarks = []
    if row.unfinished:
        cells = ", ".join(f"{o.cell.name} ({o.state})" for o in row.unfinished)
        remarks.append(f"without {cells}")
    differing = row.differences()
    if differing:
        remarks.append("not made alike: " + "; ".join(differing))
    others = [o for o in row.done if o.seed != o.cell.config.seed]
    if others:
        cells = ", ".join(f"{o.cell.name} (seed {o.seed})" for o in others)
        remarks.append(f"run with another seed than asked for: {cells}")
    return ". ".join(remarks)


def _facts(outcomes: Sequence[Outcome], has_seeds: bool) -> list[str]:
    """What a reader must know of our columns; where cells differ, every value."""
    done = [outcome for outcome in outcomes if outcome.result]
    facts = [f"cells done: {len(done)} of {len(outcomes)}"]

    def add(name: str, values: Iterable[Any], between: str = " / ") -> None:
        shown = list(dict.fromkeys(str(value) for value in values if value is not None))
        if shown:
            facts.append(f"{name}: {between.join(shown)}")

    def of(key: str, only: Iterable[Outcome] = done) -> list[Any]:
        return [outcome.result["protocol"].get(key) for outcome in only]

    restoring = [outcome for outcome in done if outcome.config.task != "synthesis"]
    add("protocol", of("protocol", restoring))
    add("source", of("source"))
    sizes = [outcome.result["protocol"] for outcome in done]
    add("size", [f"{p['height']}x{p['width']}" for p in sizes if p.get("height")])
    add("val images", [outcome.result["metrics"].get("num_samples") for outcome in done])
    add("coarse masks", of("coarse"))
    hashes = [outcome.result.get("generator_sha256") for outcome in done]
    add("image generator (sha256)", [str(value)[:12] for value in hashes if value])
    add("kind of it", of("generator"))
    add("size at which it draws", of("generator size"))
    add("style that it draws in", of("style"))
    add("edges given to it", of("edges", restoring))
    add("sampling of the small mask", of("sampling"))
    add("perceptual network", of("perceptual network"))
    add("features of the distances", of("features"))
    for task, name in TASKS.items():
        trained = [o for o in done if o.config.task == task and o.config.trains]
        add(f"images seen, {name}", [outcome.result.get("num_images") for outcome in trained])
    seeds = [outcome.result.get("seed") for outcome in done]
    add("seeds" if has_seeds else "seed", seeds, ", " if has_seeds else " / ")
    add("commit", [outcome.result.get("commit") for outcome in done])
    if "lite0" in of("features"):
        facts.append("fd_lite0 and kd_lite0 are not FID and KID, and not comparable with them")
    return facts
