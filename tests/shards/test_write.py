"""shards/write.py: bytes that do not depend on how they were made, and no half-written folder."""

import gc
import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from processes import wait_until
from raw_data import run_write

from maskrestore.config.settings import parse
from maskrestore.data.sample import MEMBERS, decode, encode
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.system import count_cores
from shards.sources.streetscenes import VAL_OFFSET, draw
from shards.write import WriteConfig, write_shards

SIZE = (32, 64)
PROGRAM = Path(__file__).parents[2] / "shards" / "write.py"


def words(out: Path, num_train: int = 7, **more: Any) -> list[str]:
    settings = {"num_train": num_train, "num_val": 2, "size": "32x64", "samples_per_shard": 3,
                "workers": 1, **more}  # fmt: skip
    return [f"out={out}", *(f"{key}={value}" for key, value in settings.items())]


def write(out: Path, **more: Any) -> dict[str, Any]:
    path = write_shards(parse(WriteConfig, words(out, **more)))
    manifest: dict[str, Any] = json.loads(path.read_text())
    return manifest


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    write(out)
    return out


def test_manifest_describes_the_tars(written: Path) -> None:
    manifest = json.loads((written / "manifest.json").read_text())
    assert (manifest["height"], manifest["width"]) == SIZE
    assert (manifest["schema_version"], manifest["num_classes"]) == (1, 34)
    assert manifest["coarse"] == "simulated"
    assert [shard["num_samples"] for shard in manifest["splits"]["train"]["shards"]] == [3, 2, 2]
    for split, first, count in (("train", 0, 7), ("val", VAL_OFFSET, 2)):
        scenes = [draw(0, first + index, *SIZE) for index in range(count)]
        pixels = np.bincount(np.concatenate([s.fine.ravel() for s in scenes]), minlength=34)
        assert manifest["splits"][split]["class_pixels"] == pixels.tolist()
        members = {scene.key: encode(scene) for scene in scenes}
        keys = set()
        for shard in manifest["splits"][split]["shards"]:
            data = (written / shard["name"]).read_bytes()
            assert len(data) == shard["num_bytes"]
            for sample in shard["samples"]:
                keys.add(sample["key"])
                assert list(sample["members"]) == list(MEMBERS)
                for name, (start, size) in sample["members"].items():
                    assert data[start : start + size] == members[sample["key"]][name]
        assert keys == members.keys()


def test_plain_webdataset_reads_the_same_samples(written: Path) -> None:
    urls = [str(path) for path in sorted(written.glob("train-*.tar"))]
    with warnings.catch_warnings():
        # webdataset leaves closing its tars to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        dataset = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
        samples = {raw["__key__"]: raw for raw in dataset}
        del dataset
        gc.collect()
    assert len(samples) == 7
    for index in range(7):
        scene = draw(0, index, *SIZE)
        raw = samples[scene.key]
        sample = decode(scene.key, {name: raw[name] for name in MEMBERS})
        for name in ("image", "fine", "coarse", "instance"):
            assert np.array_equal(getattr(sample, name), getattr(scene, name))


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(written: Path, tmp_path: Path) -> None:
    manifest = write(tmp_path / "out", workers=2)
    assert manifest == json.loads((written / "manifest.json").read_text())
    assert tars(tmp_path / "out") == tars(written)


def test_resume_keeps_finished_shards_and_rewrites_the_rest(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = write(out)
    (out / "manifest.json").unlink()
    (out / "train-000001.tar").unlink()
    damaged = out / "train-000002.tar"
    damaged.write_bytes(damaged.read_bytes()[:-600])
    before = (out / "train-000000.tar").stat()
    assert write(out) == manifest
    assert tars(out) == tars(written)
    after = (out / "train-000000.tar").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_leftovers_of_other_settings_are_not_mixed_in(written: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, num_train=20, source_seed=5)
    (out / "manifest.json").unlink()
    write(out)
    assert tars(out) == tars(written)


def test_finished_folder_is_left_alone(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.iterdir()}
    assert run_write(*words(written)) == 0
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="num_train: 7 there, 8 now"):
        write(written, num_train=8)
    assert {path: path.stat().st_mtime_ns for path in written.iterdir()} == before


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "unbroken"
    write(out, num_train=24, samples_per_shard=1)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_program_continues_to_the_same_bytes(
    unbroken: Path, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    settings = words(out, num_train=24, samples_per_shard=1, workers=2)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *settings],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(
        "a shard", lambda: any(out.glob("train-*.tar")) or process.poll() is not None, seconds=60
    )
    # Ctrl-C reaches the whole group, SIGKILL only the program.
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in stderr
    assert not (out / "manifest.json").exists()
    wait_until("the group has ended", lambda: not group_exists(process.pid), seconds=60)
    if how == signal.SIGINT:
        assert not list(out.glob("**/.*.partial"))
    assert 0 < len(tars(out)) < len(tars(unbroken))
    write(out, num_train=24, samples_per_shard=1)
    assert tars(out) == tars(unbroken)
    assert not list(out.glob("**/.*.partial"))


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_full_disk_is_one_message_and_no_partial_file(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: both are refused by write()."""
    out = tmp_path / "out"
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000));"
        "from shards.write import *; sys.exit(run_program(main, '', WriteConfig))"
    )
    command = [sys.executable, "-c", code, *words(out)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "no space left" in process.stderr
    assert "Traceback" not in process.stderr
    assert not list(out.glob("*.tar"))
    assert not list(out.glob("**/.*.partial"))
    assert not (out / "manifest.json").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_write("--help") == 0
    assert "samples_per_shard" in capsys.readouterr().out
    assert run_write(f"out={tmp_path / 'out'}", "sourc=camvid", "size=30x64") == 2
    error = capsys.readouterr().err
    assert "did you mean source?" in error
    assert "multiples of 32" in error
    (tmp_path / "file").write_text("not a folder")
    assert run_write(*words(tmp_path / "file" / "out")) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
    assert run_write(*words(tmp_path / "out", splits="train,test")) == 2
    assert "streetscenes has train and val" in capsys.readouterr().err
    config = parse(WriteConfig, words(tmp_path / "out", splits="train,val"))
    assert config.splits == parse(WriteConfig, words(tmp_path, splits="[train,val]")).splits


def test_a_foreign_manifest_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    for content in ("{", '{"name": "a web application"}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"manifest\.json.*choose another out="):
            write(tmp_path)
        assert path.read_text() == content


def test_cores_are_counted_where_the_system_has_no_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert count_cores() == os.cpu_count()
    assert write(tmp_path / "out", num_train=1, num_val=1, splits="train", workers=0)


@pytest.mark.slow
def test_start_up_needs_no_torch() -> None:
    code = "import sys, shards.write, shards.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
