"""Run folders of a grid as finished runs leave them, and the report that is made of them."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from label_sets import LABEL_ID, LABELS
from PIL import Image

from launch.grid.cells import Cell, GridSettings, read_grid
from launch.report import main
from launch.results.table import GAINS_TITLE
from maskrestore.config.settings import to_yaml
from maskrestore.runs.figures import CAPTIONS


def tiny_grid(tmp_path: Path) -> list[str]:
    """The words of grid table1 with a tiny configuration, in tmp_path/runs/tiny-table1."""
    path = tmp_path / "tiny.yaml"
    path.write_text("training: {num_images: 8, batch_size: 4}\nperceptual: {network: lite0}\n")
    return [f"config={path}", f"runs={tmp_path / 'runs'}"]


def cells_of(words: list[str]) -> dict[str, Cell]:
    return {cell.name: cell for cell in read_grid(GridSettings, words)[1].cells}


def finish(
    cell: Cell,
    accu: float | None,
    miou19: float | None,
    fid: float | None = 80.0,
    commit: str = "abc123+dirty",
    **protocol: object,
) -> None:
    """Leave the run folder of a cell as a finished run does."""
    cell.folder.mkdir(parents=True)
    (cell.folder / "config.yaml").write_text(to_yaml(cell.config))
    metrics: dict[str, Any] = {"accu": accu, "miou19": miou19, "miou_all": miou19}
    iou = None if accu is None else {"road": 0.5, "train": None}
    metrics |= {"iou": iou, "num_samples": 5, "fid": fid, "kid": 0.0123}
    config = cell.config
    result = {
        "task": config.task,
        "loss": config.loss,
        "baseline": config.baseline,
        "seed": config.seed,
        "num_images": 8 if config.trains else 0,
        "metrics": metrics,
        "protocol": {
            "features": "inception",
            "edges": "argmax",
            "sampling": "corner",
            "height": 96,
            "width": 192,
            "source": "streetscenes",
            "coarse": "simulated",
            **protocol,
        },
        "commit": commit,
        "versions": {"torch": "2.15"},
        "generator_sha256": "0123456789abcdef",
    }
    (cell.folder / "result.json").write_text(json.dumps(result))


def measure(cell: Cell, **metrics: Any) -> None:
    """Put more figures into a result."""
    path = cell.folder / "result.json"
    result = json.loads(path.read_text())
    result["metrics"] |= metrics
    path.write_text(json.dumps(result))


def draw(cell: Cell, *keys: str) -> None:
    """Pictures of a cell: the input and the truth are those of every row, the others its own."""
    (cell.folder / "pictures").mkdir(parents=True, exist_ok=True)
    own = sum(cell.name.encode()) % 200
    for number, key in enumerate(keys):
        for kind in CAPTIONS:
            shade = own if kind in ("restored", "synthesized") else 10 * number
            picture = Image.new("RGB", (64, 32), (shade, 90, 90))
            if "mask" in CAPTIONS[kind]:
                picture.paste(LABELS[LABEL_ID["road"]].color, (0, 16, 64, 32))
            picture.save(cell.folder / "pictures" / f"{key}_{kind}.png")


def train(cell: Cell, *ends: float) -> None:
    """metrics.jsonl of a run whose cross entropy falls to the last of `ends`; NaN is left by some
    runs, and half a line by those that were killed."""
    lines: list[dict[str, Any]] = [
        {"num_images": 100 * number, "losses": {"ce": end, "l1": 0.5}}
        for number, end in enumerate(ends, 1)
    ]
    lines.append({"num_images": 100 * len(ends), "evaluation": {"accu": 0.5, "miou19": None}})
    lines[0]["losses"]["l1"] = float("nan")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (cell.folder / "metrics.jsonl").write_text(text + '{"num_images": 9')


def resample(cell: Cell, low: float, high: float, falls: bool = False) -> None:
    """resamples.json of a run with this interval of accu."""
    accus = [low + (high - low) * (number - 1) / 38 for number in range(41)]
    content = {"images": "same", "figures": {"accu": accus[::-1] if falls else accus}}
    (cell.folder / "resamples.json").write_text(json.dumps(content))


def table_of(words: list[str], tmp_path: Path) -> list[list[str]]:
    """The rows of table1.md, each a list of its cells; the task stands in every row."""
    assert main(words) == 0
    text = (tmp_path / "runs" / "tiny-table1" / "table1.md").read_text().partition(GAINS_TITLE)[0]
    rows = [
        [field.strip() for field in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("|") and set(line) - set("|-: ")
    ]
    for before, row in pairwise(rows):
        row[0] = row[0] or before[0]
    return rows
