"""What is kept of the code that runs, and the copy that jobs run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from forked import ROOT

from launch.grid.snapshot import snapshot
from maskrestore.config.run import load_config
from maskrestore.runs import provenance, run_folder
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a changed file, a new one, and weights that lie about."""
    root = tmp_path / "checkout"
    root.mkdir()

    def git(*words: str) -> None:
        identity = ("-c", "user.name=me", "-c", "user.email=me@localhost")
        subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)

    git("init")
    (root / "code.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    (root / "code.py").write_text("a = 2\n")
    (root / "new.py").write_text("b = 3\n")
    (root / "weights.pth").write_bytes(b"w" * 1000)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def test_changes_are_a_patch_that_makes_the_code_again(checkout: Path, tmp_path: Path) -> None:
    provenance.write_provenance(tmp_path)
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["commit"].endswith("+dirty")
    assert facts["packages"]["pydantic"]
    clean = tmp_path / "clean"
    subprocess.run(["git", "clone", "-q", str(checkout), str(clean)], check=True)
    patch = str(tmp_path / "changes.diff")
    subprocess.run(["git", "-C", str(clean), "apply", patch], check=True)
    assert (clean / "code.py").read_text() == "a = 2\n"
    assert (clean / "new.py").read_text() == "b = 3\n"
    assert not (clean / "weights.pth").exists()


def test_a_snapshot_is_what_its_programs_import_and_knows_where_it_came_from(
    tmp_path: Path,
) -> None:
    code = snapshot(tmp_path / "code")
    assert snapshot(tmp_path / "code") == code  # there already
    ask = (
        "import launch.slurm.supervisor, maskrestore.runs.provenance as p; "
        "print(p.__file__, p.commit())"
    )
    environment = {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", ask], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    path, commit = shown.stdout.split()
    assert Path(path) == code / "maskrestore" / "runs" / "provenance.py"
    assert commit == str(provenance.commit())


class TestStartsOfAJob:
    """Who waits for the lock of a run folder, and who is refused."""

    def claim(self, patch: pytest.MonkeyPatch, run: Path, job: str, restart: int) -> None:
        patch.setenv("SLURM_JOB_ID", job)
        patch.setenv("SLURM_RESTART_COUNT", str(restart))
        words = [f"run={run}", "health.watchdog_seconds=0.5"]
        run_folder.claim(load_config(words)).close()

    def test_a_later_start_asks_the_earlier_one_to_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.claim(monkeypatch, tmp_path, "7", 0)
        assert not run_folder.is_superseded(tmp_path)
        with lock(tmp_path), pytest.raises(UserError, match="another process"):
            self.claim(monkeypatch, tmp_path, "7", 1)  # waits for as long as its watchdog
        assert "waiting for an earlier start of this job" in capsys.readouterr().out
        monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
        assert run_folder.is_superseded(tmp_path)
        monkeypatch.delenv("SLURM_JOB_ID")
        assert not run_folder.is_superseded(tmp_path)  # not on SLURM: nobody starts it again

    @pytest.mark.parametrize(("job", "restart"), [("8", 1), ("7", 0)])
    def test_others_are_refused_at_once(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        job: str,
        restart: int,
    ) -> None:
        """Another job; or the same start: two runs in one allocation."""
        self.claim(monkeypatch, tmp_path, "7", 0)
        with lock(tmp_path), pytest.raises(UserError, match="another process"):
            self.claim(monkeypatch, tmp_path, job, restart)
        assert "waiting" not in capsys.readouterr().out
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_RESTART_COUNT", "0")
        assert not run_folder.is_superseded(tmp_path)
