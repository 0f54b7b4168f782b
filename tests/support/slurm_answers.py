"""SLURM's commands with recorded answers (programs/fake_slurm.py), and a small grid for them."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from forked import ROOT

from launch.grid.cells import read_grid
from launch.slurm import commands
from launch.slurm.handover import SubmitConfig

FAKE = ROOT / "tests" / "programs" / "fake_slurm.py"
COMMANDS = ("sbatch", "squeue", "sinfo", "scancel", "sacct", "scontrol", "srun")
SIZES = {
    "data": {"size": "32x64", "num_train": 8, "num_val": 4},
    "mask_generator": {"width": 4, "hidden": 8},
    "generator": {"width": 4, "hidden": 8, "discriminator_width": 4, "num_images": 8},
    "perceptual": {"network": "lite0"},
    "training": {"num_images": 8, "batch_size": 8, "log_images": 4},
    "evaluation": {"features": "lite0", "batch_size": 4, "num_pictures": 2},
}


class FakeSlurm:
    """The commands' folder, and what they were told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def jobs(self) -> list[dict[str, Any]]:
        path = self.folder / "jobs.json"
        return json.loads(path.read_text()) if path.exists() else []

    def change(self, kind: str, **facts: Any) -> None:
        """Let all jobs of a kind move on; state="GONE" takes them off the queue."""
        jobs = [job | facts if f".{kind}." in job["name"] else job for job in self.jobs]
        kept = [job for job in jobs if job["state"] != "GONE"]
        (self.folder / "jobs.json").write_text(json.dumps(kept))

    def kinds(self) -> list[str]:
        """Kind of each job in the queue, in their order."""
        return [job["name"].split(".")[-2] for job in self.jobs]

    def calls(self, command: str) -> list[list[str]]:
        lines = (self.folder / "calls.log").read_text().splitlines()
        return [words[1:] for words in map(json.loads, lines) if words[0] == command]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in COMMANDS:
        program = programs / name
        program.write_text(f"#!{sys.executable} -S\n" + FAKE.read_text().partition("\n")[2])
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    state = tmp_path / "slurm-state"
    state.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_SLURM", str(state))
    commands._has_accounting.cache_clear()
    return FakeSlurm(state)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    config = tmp_path / "tiny.yaml"
    config.write_text(json.dumps(SIZES))
    grid = tmp_path / "small.yaml"
    grid.write_text(
        "rows:\n  synthesis: {task: synthesis}\n  densify-none: {task: densify, loss: none}\n"
        "  densify-ce: {task: densify, loss: ce}\n  densify-ce_l1: {task: densify, loss: ce_l1}\n"
    )
    folders = [f"runs={tmp_path / 'runs'}", f"data.shards={tmp_path / 'shards'}"]
    return [f"config={config}", f"grid={grid}", *folders]


def finish(words: list[str], *names: str) -> None:
    """Leave the run folders of cells as finished runs do."""
    _, grid = read_grid(SubmitConfig, words)
    for cell in grid.cells:
        if cell.name in names:
            cell.folder.mkdir(parents=True, exist_ok=True)
            result = {"metrics": {"accu": 0.5}, "protocol": {}, "num_images": 8}
            (cell.folder / "result.json").write_text(json.dumps(result))


def folder_of(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny-small"
