"""More shards than files that may be open."""

import os
import resource
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tiny_runs import Words, run_train

from maskrestore.data import shard_folder
from maskrestore.data.sample import Sample
from maskrestore.data.shard_folder import ShardFolder, most_open
from maskrestore.utils.errors import UserError
from shards.write import WriteConfig, write_shards

NUM_SHARDS = 40
Limit = Callable[[int], None]


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample per shard."""
    out = tmp_path_factory.mktemp("many")
    settings = {"num_train": NUM_SHARDS, "num_val": 1, "size": "32x64", "workers": 1}
    write_shards(WriteConfig(out=out, samples_per_shard=1, **settings))
    return out


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Make this process believe that it may open so many files, as after `ulimit -n`."""

    def change(soft: int) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))

    return change


def num_open() -> int:
    links = [path for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return sum(os.readlink(link).endswith(".tar") for link in links)


def test_as_many_stay_open_as_may_be(many: Path, limit: Limit) -> None:
    samples: dict[int, list[Sample]] = {}
    for soft, kept in ((400, NUM_SHARDS), (32, 8), (3, 1)):
        limit(soft)
        assert most_open() == max(1, soft // 4)
        folder = ShardFolder(many, "train")
        order = [*range(NUM_SHARDS), *range(0, NUM_SHARDS, 3)]
        samples[soft] = [folder[index] for index in order]
        assert num_open() == kept
        folder.close()
        assert num_open() == 0
    for one, other in zip(samples[400], samples[3], strict=True):
        assert one.key == other.key
        assert (one.image == other.image).all()


@pytest.mark.parametrize("soft", [resource.RLIM_INFINITY, 10**6])
def test_no_limit_is_no_number_to_divide(limit: Limit, soft: int) -> None:
    limit(soft)
    assert most_open() == 4096


def test_no_thread_loses_the_shard_that_it_reads(many: Path, limit: Limit) -> None:
    limit(8)
    folder = ShardFolder(many, "train")
    order = [(7 * number) % NUM_SHARDS for number in range(400)]
    with ThreadPoolExecutor(8) as threads:
        keys = [sample.key for sample in threads.map(folder.__getitem__, order)]
    assert keys == [folder[index].key for index in order]
    folder.close()


def test_a_shard_is_checked_once_and_again_if_it_has_changed(
    many: Path, tmp_path: Path, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(many, tmp_path / "copy")
    checked: list[str] = []

    def noted(folder: Path, shard: dict, url: str = "") -> int:
        checked.append(shard["name"])
        return check(folder, shard, url)

    check = shard_folder.open_checked
    monkeypatch.setattr(shard_folder, "open_checked", noted)
    limit(4)
    folder = ShardFolder(copy, "train")
    for index in (0, 1, 2, 0, 1):
        assert folder[index].key
    assert checked == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]
    path = copy / "train-000000.tar"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"train-000000\.tar is damaged"):
        folder[0]
    (copy / "train-000002.tar").unlink()
    with pytest.raises(UserError, match=r"train-000002\.tar cannot be read: No such file"):
        folder[2]
    folder.close()


def test_when_all_files_are_open_the_limit_is_named(many: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    folder = ShardFolder(many, "train")
    held = [os.open(os.devnull, os.O_RDONLY)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 1, hard))
        with pytest.raises(UserError, match=r"has all \d+ files open that it may; ulimit -n \d+"):
            folder[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in held:
            os.close(file)
        folder.close()


@pytest.mark.slow
def test_a_run_trains_on_more_shards_than_it_may_open(
    many: Path, words: Words, tmp_path: Path
) -> None:
    given = words("run", "task=densify", "loss=ce", f"data.shards={many}", "training.num_images=80")
    done = run_train(given, "sh", "-c", 'ulimit -n 60; exec "$@"', "sh", sys.executable)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").is_file()
