"""What is kept of the code that runs, and the copy that jobs run."""

import json
import os
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
    """A repository with a changed file, new ones, and weights that lie about."""
    root = make_checkout(tmp_path / "checkout")
    text = (root / "code.py").read_text()
    (root / "code.py").write_text(text.replace("a = 1\n", "a = 2\n"))
    (root / "new.py").write_bytes(b"b = 3\r\n")
    (root / "tür.py").write_text("c = 4\n")
    (root / "weights.pth").write_bytes(b"w" * 1000)
    monkeypatch.setattr(provenance, "ROOT", root)
    return root


def make_checkout(root: Path) -> Path:
    """A repository with one commit of its own."""
    root.mkdir()

    def git(*words: str) -> None:
        identity = ("-c", "user.name=me", "-c", "user.email=me@localhost")
        subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)

    git("init")
    lines = "\n".join(map(str, range(9)))
    (root / "code.py").write_text(f"{lines}\n\na = 1\n\n{lines}\n")
    git("add", ".")
    git("commit", "-m", root.name)
    return root


def check_patch(checkout: Path, tmp_path: Path) -> None:
    """It makes the code again from the recorded commit, with no configuration of the user's."""
    provenance.write_provenance(tmp_path)
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert facts["packages"]["pydantic"]
    clean, apart = tmp_path / "clean", {"HOME": "/nowhere", "PATH": os.environ["PATH"]}

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], check=True, env=apart, stdout=subprocess.PIPE)
        return done.stdout.decode().strip()

    git("clone", "-q", str(checkout), str(clean))
    assert facts["commit"] == git("-C", str(clean), "rev-parse", "HEAD") + "+dirty"
    git("-C", str(clean), "apply", str(tmp_path / "changes.diff"))
    assert (clean / "code.py").read_bytes() == (checkout / "code.py").read_bytes()
    assert (clean / "new.py").read_bytes() == b"b = 3\r\n"
    assert (clean / "tür.py").read_bytes() == b"c = 4\n"
    assert not (clean / "weights.pth").exists()


def test_changes_are_a_patch_that_makes_the_code_again(checkout: Path, tmp_path: Path) -> None:
    check_patch(checkout, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.srcPrefix", "x/"),
        ("diff.dstPrefix", "y/"),
        ("diff.orderFile", "/gone"),
        ("diff.context", "0"),
        ("diff.interHunkContext", "20"),
        ("diff.external", "false"),
        ("diff.relative", "true"),
        ("diff.renames", "copies"),
        ("diff.suppressBlankEmpty", "true"),
        ("diff.submodule", "log"),
        ("diff.ignoreSubmodules", "all"),
        ("diff.shouting.textconv", "tr a-z A-Z <"),
        ("diff.shouting.command", "false"),
        ("color.ui", "always"),
        ("color.diff", "always"),
        ("core.pager", "cat -A"),
        ("core.quotePath", "false"),
        ("core.autocrlf", "true"),
        ("core.autocrlf", "input"),
        ("core.safecrlf", "true"),
    ],
)
def test_no_configuration_of_git_spoils_the_patch(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    value: str,
) -> None:
    """Of the user's, which that of the repository lies above."""
    (checkout / ".git" / "info" / "attributes").write_text("*.py diff=shouting\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    subprocess.run(["git", "config", "--global", key, value], check=True)
    check_patch(checkout, tmp_path)


def test_nor_does_that_of_the_repository(checkout: Path, tmp_path: Path) -> None:
    with open(checkout / ".git" / "config", "a") as file:
        file.write("[diff]\nnoprefix = true\norderFile = /gone\n[color]\nui = always\n")
    check_patch(checkout, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"GIT_DIR": "{other}/.git"},
        {"GIT_DIR": "{other}/.git", "GIT_WORK_TREE": "{other}"},
        {"GIT_INDEX_FILE": "{other}/.git/index"},
        {"GIT_OBJECT_DIRECTORY": "{other}/.git/objects"},
        {"GIT_CEILING_DIRECTORIES": "{checkout}"},
        {"GIT_EXTERNAL_DIFF": "false"},
        {"GIT_DIFF_OPTS": "-u0"},
        {"GIT_PAGER": "cat -A", "GIT_PAGER_IN_USE": "1"},
        {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "diff.noprefix", "GIT_CONFIG_VALUE_0": "1"},
        {"GIT_LITERAL_PATHSPECS": "1"},
        {"GIT_NAMESPACE": "other", "GIT_TRACE": "1"},
    ],
)
def test_no_variable_of_the_shell_makes_it_another_repository_s(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """As they stand in the shell of a hook, of `git rebase --exec`, of a script."""
    other = make_checkout(tmp_path / "other")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(other=other, checkout=checkout))
    check_patch(checkout, tmp_path)


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
