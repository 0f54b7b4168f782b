"""What the page of a grid shows, as plain data: read from the run folders, and nothing else."""

import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

from launch.grid.cells import Grid
from launch.results.gains import gain, interval
from launch.results.names import PAPER_FIGURES, QUOTED, input_of
from launch.results.page_pictures import Pictures
from launch.results.table import UNSURE, WEAK, Line, Table, columns, counting, mark, shown
from launch.results.table_rows import Outcome, Row, untrained_rivals
from maskrestore.runs.figures import CAPTIONS, DISTANCES, FIGURES, SHARES
from maskrestore.runs.metrics_file import read_metrics
from maskrestore.utils.errors import UserError

MORE = [key for key in SHARES if key != "miou_all"]
"""Figures of the second table, those aside that the first one has."""

DRAWN = ("fid", "fd_lite0")
"""Distances of evaluations that get a chart over the images seen, beside the figures that count."""

MOST_POINTS = 400
"""Of one curve; longer ones are thinned, and the page says so."""


def report_data(
    grid: Grid, rows: Sequence[Row], table: Table, words: Sequence[str]
) -> dict[str, Any]:
    """Everything that launch/web/report.js draws, of what JSON can hold, but for NaN and infinity.

    words: what the user called the report with, less what says which files it writes.
    """
    headlines = columns(rows)
    more = [key for key in MORE if key not in headlines]
    known = {key for key in more if any(row.figure(key) for row in rows)}
    labels = rows[0].config.data.labels
    num_evaluated = len(labels.evaluated)
    pictures = Pictures(labels)
    data = {
        "title": f"Mask restoration: {grid.folder.name}",
        "summary": _summary(grid, rows),
        "warnings": _warnings(rows, table),
        "notes": [
            *(note for note in table.notes if not note.startswith((WEAK, UNSURE))),
            *(fact for fact in table.facts if ": " not in fact),
        ],
        "quoted": QUOTED,
        "hasSeeds": table.has_seeds,
        "names": {key: figure.heading(num_evaluated) for key, figure in FIGURES.items()},
        "distances": DISTANCES,
        "lowerIsBetter": [key for key, figure in FIGURES.items() if figure.lower_is_better],
        "paperFigures": PAPER_FIGURES,
        "headlines": headlines,
        "counting": counting(rows),
        "more": [key for key in more if key in known],
        "unmeasured": [FIGURES[key].heading(num_evaluated) for key in more if key not in known],
        "rows": [
            _row(row, rows, line, [*headlines, *more], pictures)
            for row, line in zip(rows, table.lines, strict=True)
        ],
        "kinds": CAPTIONS,
        "classes": [labels.by_number[number].name for number in labels.evaluated],
        "colors": {
            name: "#{:02x}{:02x}{:02x}".format(*color) for color, name in pictures.names.items()
        },
        "made": _made(rows),
        "commands": [
            shlex.join(["python", f"launch/{name}.py", *words]) for name in ("submit", "report")
        ],
        "folder": str(grid.folder),
    }
    return data | {"pictures": pictures.uris, "pictureClasses": pictures.classes}


def _summary(grid: Grid, rows: Sequence[Row]) -> str:
    """One paragraph: what was done, on what, by which code, and when this was written."""
    done = [outcome for row in rows for outcome in row.done]
    results = [outcome.result for outcome in done]

    def distinct(values: Iterable[Any]) -> str:
        known = dict.fromkeys(str(value) for value in values if value is not None)
        return " / ".join(known) or "unknown"

    num_trained = sum(row.config.trains for row in rows)
    text = (
        f"Grid {grid.name}, run as {grid.folder.name}. Rows: {num_trained} trained, "
        f"{len(rows) - num_trained} untrained; {len(done)} of "
        f"{sum(len(row.outcomes) for row in rows)} cells done. "
    )
    if done:
        protocols = [result["protocol"] for result in results]
        sizes = [f"{p['height']}x{p['width']}" for p in protocols if p.get("height")]
        text += (
            f"Judged on {distinct(r['metrics'].get('num_samples') for r in results)} val images of "
            f"{distinct(p.get('source') for p in protocols)} at {distinct(sizes)} pixels, "
            f"protocol {distinct(o.config.protocol for o in done)}, "
            f"seed {distinct(outcome.seed for outcome in done)}, "
            f"code of commit {distinct(_short(result.get('commit')) for result in results)}. "
        )
    return text + f"Written {datetime.now(UTC):%d %B %Y, %H:%M} UTC from the run folders alone."


def _short(commit: str | None) -> str | None:
    """The first 12 digits, and whether there were changes."""
    return None if commit is None else re.sub(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", commit)


def _warnings(rows: Sequence[Row], table: Table) -> list[str]:
    """What a reader must know before reading any figure."""
    without: dict[str, list[str]] = {}  # of a row that is half done a footnote tells
    for outcome in (outcome for row in rows if not row.done for outcome in row.outcomes):
        without.setdefault(str(outcome.state), []).append(outcome.cell.name)
    warnings = [f"Without figures, as {state}: {', '.join(c)}." for state, c in without.items()]
    warnings += table.problems
    warnings += table.footnotes
    for outcome in (outcome for row in rows for outcome in row.done):
        result, name = outcome.result, outcome.cell.name
        if result.get("left_out_shards"):
            warnings.append(f"{name}: damaged shards were left out: {result['left_out_shards']}")
        if result.get("images_passed_over"):
            warnings.append(f"{name}: passed over {result['images_passed_over']} images")
        if result.get("resumed_with_other_code"):
            warnings.append(f"{name}: was resumed with other code than it was started with")
    return warnings


def _row(
    row: Row, rows: Sequence[Row], line: Line, keys: Iterable[str], pictures: Pictures
) -> dict[str, Any]:
    """A row of the grid: its figures, curves and pictures. Pictures and single samples are of the
    first of its cells that is done."""
    shown_cell = row.done[0] if row.done else None
    rivals = untrained_rivals(row, rows)
    return {
        "name": row.name,
        "task": line.task,
        "loss": line.loss,
        "runs": line.runs,
        "state": line.state,
        "paper": list(line.paper),
        "trains": row.config.trains,
        "figures": {key: _figure(key, row, rows) for key in keys},
        "input": " ".join(input_of(row.config)),
        "rivals": [other.name for other in rivals],
        "rival": getattr(_best(rivals, "miou19"), "name", None),
        "iou": _mean_iou(row),
        "byDegradation": _by_degradation(row),
        "curves": [_curves(outcome, (*counting(rows), *DRAWN)) for outcome in row.outcomes],
        "seed": shown_cell.seed if shown_cell else None,
        "numPictures": row.config.evaluation.num_pictures,
        "samples": _samples(shown_cell) if shown_cell else [],
        "pictures": _pictures(shown_cell, pictures) if shown_cell else {},
    }


def _best(rows: Sequence[Row], key: str) -> Row | None:
    known = [(figure.mean, row) for row in rows if (figure := row.figure(key))]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def _figure(key: str, row: Row, rows: Sequence[Row]) -> dict[str, Any] | None:
    """A figure as text and number, with its `interval`. Of what the table compares, `gain`: in
    words what a trained row has more than the best untrained one, `isSure` whether its interval
    leaves 0 out, `rival` which row that is; and the table's `mark`."""
    figure = row.figure(key)
    if figure is None:
        return None
    margin = gain(row, rows, key) if key in counting(rows) else None
    return {
        "text": shown(key, figure),
        "value": figure.mean,
        "interval": interval(row, key),
        "mark": mark(row, rows, key),
        "gain": margin.text() if margin else None,
        "isSure": margin.is_sure if margin else None,
        "rival": margin.rival.name if margin else None,
    }


def _mean_iou(row: Row) -> dict[str, float | None]:
    """IoU of each class, the mean over the seeds that have the class."""
    by_class: dict[str, list[float]] = {}
    for outcome in row.done:
        for name, value in (outcome.result["metrics"].get("iou") or {}).items():
            by_class.setdefault(name, []).extend([] if value is None else [value])
    return {name: fmean(values) if values else None for name, values in by_class.items()}


def _by_degradation(row: Row) -> dict[str, Any]:
    """Kind of damage -> figures of the samples damaged so, of the row's first cell."""
    figures = row.done[0].result["metrics"].get("by_degradation") if row.done else None
    return dict(figures or {})


def _curves(outcome: Outcome, evaluated: Sequence[str]) -> dict[str, Any]:
    """The losses and evaluations of a run, of these the figures `evaluated`: each a list of
    [images seen, value]."""
    losses: dict[str, list[list[float]]] = {}
    evaluations: dict[str, list[list[float]]] = {}
    try:
        lines = read_metrics(outcome.cell.folder)
    except UserError:
        lines = []  # the outcome's problem already
    for line in lines:
        for into, values in ((losses, line.get("losses")), (evaluations, line.get("evaluation"))):
            for key, value in values.items() if isinstance(values, dict) else ():
                if isinstance(value, int | float) and (into is losses or key in evaluated):
                    into.setdefault(key, []).append([line["num_images"], float(f"{value:.5g}")])
    step = max((math.ceil(len(curve) / MOST_POINTS) for curve in losses.values()), default=1)
    return {
        "cell": outcome.cell.name,
        "losses": {term: curve[:-1:step] + curve[-1:] for term, curve in losses.items()},
        "evaluations": evaluations,
        "every": step,
    }


def _samples(outcome: Outcome) -> list[dict[str, Any]]:
    """samples.json: figures of each val sample; none of a run of before there was such a file."""
    try:
        samples = json.loads((outcome.cell.folder / "samples.json").read_text(encoding="utf-8"))
        return [{**sample, "key": str(sample["key"])} for sample in samples]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def _pictures(outcome: Outcome, pictures: Pictures) -> dict[str, dict[str, int]]:
    """Sample -> kind -> number of its picture."""
    by_sample: dict[str, dict[str, int]] = {}
    for kind in CAPTIONS:
        for path in sorted((outcome.cell.folder / "pictures").glob(f"*_{kind}.png")):
            number = pictures.add(path, kind)
            if number is not None:
                by_sample.setdefault(path.name.removesuffix(f"_{kind}.png"), {})[kind] = number
    return dict(sorted(by_sample.items()))


def _made(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """How the cells were made: each fact with its values, and who has which where they differ."""
    done = [outcome for row in rows for outcome in row.done]
    made = {outcome.cell.name: {"seed": outcome.seed, **outcome.facts} for outcome in done}
    facts = []
    for name in dict.fromkeys(name for cell_facts in made.values() for name in cell_facts):
        values: dict[str, list[str]] = {}
        for cell, cell_facts in made.items():
            values.setdefault(_said(cell_facts.get(name)), []).append(cell)
        facts.append({"name": name, "values": [[value, who] for value, who in values.items()]})
    return facts


def _said(value: Any) -> str:
    """A value of a fact as people say it."""
    if value is None or value == []:
        return "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
