"""Report a grid: python launch/report.py grid=table1 [config=demo] [runs=DIR]

Writes table1.md, table1.csv and figure2.png into the grid's folder, from its run folders alone, at
any time: cells that are not done are marked.
"""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from launch.figure import draw_figure
from launch.grid import CELL_KEYS, Cell, Grid, GridSettings, read_grid
from launch.state import State, read_state
from maskrestore.config import RunConfig
from maskrestore.drift import read_run_config
from maskrestore.files import write_atomically
from maskrestore.program import run_program
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

DISTANCES = {"fid": "FID", "kid": "KID", "fd_lite0": "fd_lite0", "kd_lite0": "kd_lite0"}
"""Key of an image distance -> heading of its column."""

TASKS = {"synthesis": "synthesis", "densify": "densification"}


@dataclass(frozen=True)
class Row:
    """A cell with what its run folder holds: its settings (until it is started, those that the
    grid gives it), and its result, empty until it is done. problem: why it is unreadable."""

    cell: Cell
    config: RunConfig
    state: State
    result: dict[str, Any]
    problem: str = ""

    def metric(self, name: str) -> float | None:
        """A figure of the result; None if it is not there or does not apply."""
        value = self.result.get("metrics", {}).get(name)
        return None if value is None else float(value)

    @property
    def paper(self) -> tuple[float | None, float | None, float | None]:
        """The paper's accu, mIoU and FID for the same experiment; None where it has none."""
        config = self.config
        of_paper = config.degrade.factor == 8 and config.degrade.sampling == "corner"
        if config.baseline != "input" or (config.task == "super_resolution" and not of_paper):
            return None, None, None
        loss = "none" if config.task == "synthesis" else config.loss
        return PAPER.get((config.task, loss), (None, None, None))

    @property
    def loss_name(self) -> str:
        """The terms in the paper's spelling. VGG is said only where it is VGG19."""
        config = self.config
        if config.task == "synthesis":
            return "-"
        if config.loss == "none":
            what = {"input": "input as it is", "fill": "nearest label", "realign": "realigned"}
            center = ", centre-sampled" if config.degrade.sampling == "center" else ""
            return f"none ({what[config.baseline]}{center})"
        perceptual = {"vgg19": "VGG", "lite0": "Lite0"}[config.perceptual.network]
        names = {"ce": "CE", "vgg": perceptual, "l1": "L1"}
        return "+".join(names[part] for part in config.loss.split("_"))


def main(words: Sequence[str]) -> int:
    """Write the table and the figure, print the table and the paths."""
    _, grid = read_grid(GridSettings, words)
    if not grid.folder.is_dir():
        raise UserError(
            f"{grid.folder}: nothing there to report; run the grid with `python launch/submit.py` "
            "and the same words first"
        )
    rows = [_read_row(cell) for cell in grid.cells]
    table = markdown(grid, rows)
    paths = [grid.folder / f"{grid.name}.md", grid.folder / f"{grid.name}.csv"]
    write_atomically(paths[0], table.encode())
    write_atomically(paths[1], flat(rows).encode())
    figure = draw_figure(grid)
    if figure is not None:
        paths.append(grid.folder / "figure2.png")
        write_atomically(paths[-1], figure)
    print(table)
    print("\n".join(str(path) for path in paths))
    if figure is None:
        print("no figure: no cell has pictures yet")
    return 0


def _read_row(cell: Cell) -> Row:
    state = read_state(cell)
    saved = cell.folder / "config.yaml"
    try:
        config = read_run_config(saved) if saved.is_file() else cell.config
        return Row(cell, config, state, read_result(cell.folder) if state.kind == "done" else {})
    except (ConfigError, UserError) as error:
        problem = " ".join(str(error).splitlines())
        return Row(cell, cell.config, State("unreadable", state.progress), {}, problem)


def markdown(grid: Grid, rows: Sequence[Row]) -> str:
    """The table as markdown: how it was made, then ours beside the paper's, then notes."""
    found = [key for key in DISTANCES if any(row.metric(key) is not None for row in rows)]
    lines = [f"# {grid.name}: {grid.folder.name}", "", *_protocol(rows), ""]
    ours = ["accu", "mIoU (19)", "mIoU (all ids)", *(DISTANCES[key] for key in found)]
    heads = ["task", "loss", *(f"ours: {name}" for name in ours)]
    heads += ["paper: accu", "paper: mIoU", "paper: FID"]
    table = [heads]
    marked, last_task = False, ""
    for row in rows:
        task = _task_name(row)
        cells = ["" if task == last_task else task, row.loss_name]
        if row.state.kind == "done":
            for name in ("accu", "miou19"):
                weak = not _beats_untrained(row, rows, name)
                marked |= weak
                cells.append(_percent(row.metric(name)) + (" †" if weak else ""))
            cells.append(_percent(row.metric("miou_all")))
            cells += [_distance(row.metric(key)) for key in found]
        else:
            cells += [f"*{row.state}*"] + ["-"] * (2 + len(found))
        cells += ["-" if value is None else f"{value:.1f}" for value in row.paper]
        table.append(cells)
        last_task = task
    lines += [*_aligned(table), "", "Distances: lower is better. accu and mIoU in %."]
    if marked:
        lines.append(
            "† Trained, but no better than the best untrained row of the same task and input."
        )
    lines += [f"- {row.cell.name}: {row.problem}" for row in rows if row.problem]
    return "\n".join(lines) + "\n"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Markdown lines of a table that can also be read as they are; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[:2] = [cells[0].ljust(widths[0]), cells[1].ljust(widths[1])]
        lines.append("| " + " | ".join(padded) + " |")
    rule = ["-" * (width - 1) + (":" if i > 1 else "-") for i, width in enumerate(widths)]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]


def _protocol(rows: Sequence[Row]) -> list[str]:
    """What a reader must know of our columns, and of the paper's."""
    done = [row for row in rows if row.result]
    facts = [("cells done", f"{len(done)} of {len(rows)}")]

    def add(name: str, values: Iterable[Any]) -> None:
        shown = list(dict.fromkeys(str(value) for value in values if value is not None))
        if shown:
            facts.append((name, " / ".join(shown)))

    def of(key: str, only: Iterable[Row] = done) -> list[Any]:
        return [row.result["protocol"].get(key) for row in only]

    restoring = [row for row in done if row.config.task != "synthesis"]
    add("source", of("source"))
    sizes = [row.result["protocol"] for row in done]
    add("size", [f"{p['height']}x{p['width']}" for p in sizes if p.get("height")])
    add("val images", [row.result["metrics"].get("num_samples") for row in done])
    add("coarse masks", of("coarse"))
    hashes = [row.result.get("generator_sha256") for row in done]
    add("image generator (sha256)", [str(value)[:12] for value in hashes if value])
    add("edges given to it", of("edges", restoring))
    add("sampling of the small mask", of("sampling"))
    add("perceptual network", of("perceptual network"))
    add("features of the distances", of("features"))
    for task in ("synthesis", "densify", "super_resolution"):
        trained = [row for row in done if row.config.task == task and row.config.trains]
        name = f"images seen, {TASKS.get(task, 'super-resolution')}"
        add(name, [row.result.get("num_images") for row in trained])
    add("seed", [row.result.get("seed") for row in done])
    add("commit", [row.result.get("commit") for row in done])

    lines = ["**Ours**", "", *(f"- {name}: {text}" for name, text in facts)]
    if "lite0" in of("features"):
        lines.append("- fd_lite0 and kd_lite0 are not FID and KID, and not comparable with them")
    lines += [
        "",
        '**paper:** Ahn & Sull, "Semantic Segmentation Restoration Using Pretrained Image '
        'Synthesis Model" (2021), Cityscapes val, 500 images, one seed; quoted, not ours.',
    ]
    return lines


def _beats_untrained(row: Row, rows: Sequence[Row], metric: str) -> bool:
    """Whether a trained row is better than every untrained one that is given the same input."""
    value = row.metric(metric)
    if not row.config.trains or value is None:
        return True
    untrained = [
        other.metric(metric) or 0.0
        for other in rows
        if not other.config.trains
        and other.config.task == row.config.task
        and other.config.degrade == row.config.degrade
    ]
    return value > max(untrained, default=0.0)


def flat(rows: Sequence[Row]) -> str:
    """The table as CSV, a line per cell: everything its result holds, and the paper's figures.

    Figures of ours are as measured (accu and IoU in 0..1); paper_accu and paper_miou are in %.
    """
    records = []
    for row in rows:
        config = row.config
        record: dict[str, Any] = {"cell": row.cell.name, "state": str(row.state)}
        record |= {"task": config.task, "loss": config.loss, "baseline": config.baseline}
        if config.task == "synthesis":
            record["loss"] = None
        record |= dict(zip(("paper_accu", "paper_miou", "paper_fid"), row.paper, strict=True))
        metrics = row.result.get("metrics", {})
        rest = {key: value for key, value in row.result.items() if key not in ("metrics", *record)}
        record |= dict(flatten(metrics)) | dict(flatten(rest))
        records.append(record)
    names = list(dict.fromkeys(name for record in records for name in record))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _task_name(row: Row) -> str:
    config = row.config
    return TASKS.get(config.task, f"super-resolution {config.degrade.factor}x")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _distance(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", GridSettings, CELL_KEYS))
