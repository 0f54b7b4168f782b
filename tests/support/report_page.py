"""A grid whose report shows everything that a page can, and what its page was given."""

import json
import re
from pathlib import Path
from typing import Any

from finished_cells import cells_of, draw, finish, measure, resample, tiny_grid, train

ODD = "odd <b id=injected>x<b> & '\""
"""Of a row: what HTML takes for something of its own."""
ODD_KEY = '"><img id=injected src=x onerror=document.title=1>'
BREAKS_OUT = "</script><script>document.body.id='injected'</script><!-- <script>"
GRID = """
base: {perceptual: {network: lite0}}
rows:
  synthesis: {task: synthesis}
  none: {task: densify, loss: none}
  fill: {task: densify, loss: none, baseline: fill}
  ce: {task: densify, loss: ce}
  ODD: {task: densify, loss: ce_l1}
  lost: {task: densify, loss: ce_vgg}
  smaller: {task: super_resolution, loss: none, degrade: {sampling: center}}
"""


def rich_grid(folder: Path) -> list[str]:
    """A grid of rows with and without pictures, intervals, seeds, curves and results."""
    grid = folder / "table1.yaml"
    grid.write_text(GRID.replace("ODD", json.dumps(ODD)))
    words = [*tiny_grid(folder), f"grid={grid}", "seeds=2"]
    cells = cells_of(words)
    finish(cells["synthesis"], None, None, fid=91.25)
    finish(cells["none"], 0.672, 0.332)
    finish(cells["fill"], 0.871, 0.487)
    finish(cells["ce"], 0.86, 0.5)
    finish(cells["ce-seed1"], 0.88, 0.51)
    finish(cells[ODD], 0.8768, 0.4321, source=BREAKS_OUT)
    finish(cells["smaller"], 0.8, 0.6)
    for name in ("none", "fill", ODD):
        accu = json.loads((cells[name].folder / "result.json").read_text())["metrics"]["accu"]
        ends = {"accu": [accu - 0.0126, accu + 0.0134]}
        measure(cells[name], intervals=ends, accu19=accu + 0.02, boundary_f3=0.4567)
        # The trained row is good where the untrained one is bad: their difference is far from sure.
        resample(cells[name], *ends["accu"], falls=name == ODD)
    for name, accu in (("ce", 0.86), ("ce-seed1", 0.88)):
        resample(cells[name], accu - 0.0126, accu + 0.0134)
    measure(cells["fill"], iou={"road": 0.9, "train": None, "car": 0.25})
    measure(cells[ODD], iou={"road": 0.95, "train": None, "car": 0.125}, ece=0.031)
    by_kind = {"drop": {"accu": 0.7, "accu19": 0.71, "miou19": None, "num_samples": 3}}
    measure(cells[ODD], by_degradation=by_kind)
    for name in ("synthesis", "none", "fill", "ce", ODD):
        draw(cells[name], "a_1", ODD_KEY)
    samples = [{"key": f"s{n}", "accu": 0.5 + n / 20, "miou19": None} for n in range(9)]
    samples.append({"key": ODD_KEY, "accu": 0.1, "miou19": 0.25, "boundary_f3": 0.5})
    (cells[ODD].folder / "samples.json").write_text(json.dumps(samples))
    train(cells["ce"], 2.0, 0.1, 0.05)
    train(cells["ce-seed1"], 2.0, 0.1, 0.07)
    train(cells[ODD], 1.5, 0.03)
    return words


def data_of(path: Path) -> dict[str, Any]:
    """What the page was given to draw."""
    match = re.search(r'<script id="data"[^>]*>([^<]*)</script>', path.read_text())
    assert match
    data: dict[str, Any] = json.loads(match[1])
    return data
