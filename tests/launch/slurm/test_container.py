"""Jobs in containers: what is submitted, what is mounted, what is refused."""

import shlex
from pathlib import Path

import pytest
from slurm_answers import FakeSlurm, folder_of, slurm, words

from launch.slurm.container import find_mounts
from launch.submit import main
from maskrestore.utils.errors import ConfigError

__all__ = ["slurm", "words"]  # fixtures


def step_of(folder: Path, kind: str = "cells") -> list[str]:
    """The words of srun in the script of a kind."""
    script = next(folder.glob(f"jobs/*.{kind}.*/*_submission.sh")).read_text()
    return shlex.split(next(line for line in script.splitlines() if line.startswith("srun")))


@pytest.mark.slow
@pytest.mark.parametrize("num_gpus", [0, 1])
def test_an_apptainer_image_runs_the_tasks(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, num_gpus: int
) -> None:
    image = tmp_path / "an image.sif"
    image.touch()
    assert main([*words, f"slurm.container={image}", f"slurm.gpus_per_node={num_gpus}"]) == 0
    for kind in ("cells", "shards", "report"):
        srun = step_of(folder_of(tmp_path), kind)
        assert not [word for word in srun if word.startswith("--container")]
        command = srun[srun.index("apptainer") :]
        nv = ["--nv"] if num_gpus and kind == "cells" else []
        assert command[: 5 + len(nv)] == [
            *("apptainer", "exec"),
            *nv,
            "--bind",
            command[3 + len(nv)],
            str(image),
        ]
        assert command[5 + len(nv) :][:4] == ["python3", "-u", "-m", "submitit.core._submit"]
        mounts = command[3 + len(nv)].split(",")
        assert str(Path.cwd()) in mounts
        assert any(tmp_path.is_relative_to(mount) for mount in mounts)


def test_mounts_are_what_is_there_once_and_links_lead_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("work/runs", "store/deep", "given/inner"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "work/data").symlink_to(tmp_path / "store")
    (tmp_path / "link").symlink_to(tmp_path / "store/deep")
    monkeypatch.chdir(tmp_path / "work")
    paths = [Path("runs/new/cell"), Path("data/deep"), tmp_path / "link", tmp_path / "given/inner"]
    given = f"{tmp_path}/given,/somewhere:/else"
    found = find_mounts(given, paths).split(",")
    assert found[:2] == given.split(",")
    expected = [tmp_path / name for name in ("link", "store/deep", "work")]
    assert found[2:] == [str(path) for path in expected]
    (tmp_path / "a,b").mkdir()
    with pytest.raises(ConfigError, match="a path with , or : in it"):
        find_mounts("", [tmp_path / "a,b/c"])


@pytest.mark.parametrize("image", ["x.sif", "x.sqsh"])
def test_what_is_not_there_is_refused_all_at_once(
    slurm: FakeSlurm, words: list[str], image: str
) -> None:
    more = [f"slurm.container={image}", "slurm.container_mounts=/nowhere,/:/x,/neither:/y"]
    with pytest.raises(ConfigError) as caught:
        main([*words, *more])
    assert f"slurm.container={image}: no such file" in str(caught.value)
    assert "slurm.container_mounts: /nowhere is not there" in str(caught.value)
    assert "slurm.container_mounts: /neither is not there" in str(caught.value)
    assert slurm.jobs == []
