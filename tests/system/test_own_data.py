"""docs/own_data.md as a user types it, word by word, from drawing the example to the export."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/own_data.md"
TRAINED_SHORTLY = [
    *("training.num_images=40", "distributed.device=cpu", "distributed.cpu_threads=1"),
]
SHORT = {
    "shards/example.py": ["num=12", "unfinished=2", "size=64x96"],
    "launch/submit.py": TRAINED_SHORTLY,
    "launch/report.py": TRAINED_SHORTLY,
    "restore.py": ["device=cpu"],
}
"""What makes it shorter, or the same wherever it runs."""


@pytest.mark.slow
def test_the_page_is_true(tmp_path: Path) -> None:
    commands = re.findall(r"^python (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    programs = [shlex.split(command)[0] for command in commands]
    assert programs == [
        *("shards/example.py", "shards/write.py", "launch/submit.py", "launch/report.py"),
        *("evaluate.py", "restore.py", "export.py"),
    ]
    said = {}
    for command in commands:
        program, *words = shlex.split(command)
        done = subprocess.run(
            [sys.executable, str(ROOT / program), *words, *SHORT.get(program, [])],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said[program] = done.stdout
    assert "mIoU (8)" in said["launch/report.py"]
    assert "random walker" in said["launch/report.py"]
    assert "paper" not in said["launch/report.py"].split("protocol: paper")[1]
    run = tmp_path / "runs/fields-own/picture"
    result = json.loads((run / "result.json").read_text())
    assert set(result["metrics"]["iou"]) >= {"soil", "tree", "house"}
    with (tmp_path / "restored/summary.csv").open(newline="") as file:
        assert [row["problem"] for row in csv.DictReader(file)] == ["", ""]
    for path in (tmp_path / "data/fields-raw/unfinished").iterdir():
        given = np.asarray(Image.open(path))
        restored = np.asarray(Image.open(tmp_path / "restored" / f"{path.stem}_restored.png"))
        assert (restored[given != 255] == given[given != 255]).all()  # in the ids they came in
        assert set(np.unique(restored)) <= {0, 1, 2, 3, 10, 11, 20, 21}
        assert (given == 255).mean() > 0.05
    card = (tmp_path / "exported/README.md").read_text()
    assert "the 8 classes of Fields" in card
    assert "0 not annotated (id 255), 1 soil (id 0)" in card
    page = (tmp_path / "runs/fields-own/own.html").read_text()
    assert '"house": "#be463c"' in page or '"house":"#be463c"' in page
