"""The loader: what it reads, and shards that are checked. The order has test_sampler.py."""

import gc
import hashlib
import json
import shutil
import threading
import warnings
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.loader import Batch, training_batches, val_batches
from maskrestore.data.manifest import read_manifest
from maskrestore.data.sample import MEMBERS, Sample, decode
from maskrestore.data.sampler import training_order
from maskrestore.data.shard_folder import ShardFolder, find_bad_shards
from maskrestore.utils.errors import UserError


def config_for(folder: Path, *words: str) -> RunConfig:
    return load_config([f"data.shards={folder}", "data.size=32x64", *words])


def test_a_batch_is_cut_into_equal_parts_that_make_it_up(shards: Path) -> None:
    batch = next(training_batches(config_for(shards, "training.batch_size=12"), 0, 0, 1))
    for num_parts in (1, 2, 3, 12):
        parts = batch.split(num_parts)
        assert [len(part.keys) for part in parts] == [12 // num_parts] * num_parts
        assert sum((part.keys for part in parts), ()) == batch.keys
        for name in ("image", "fine", "coarse", "instance"):
            together = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(together, getattr(batch, name))
    with pytest.raises(ValueError, match="12 samples cannot be cut into 5 equal parts"):
        batch.split(5)


def _samples(folder: Path, split: str) -> list[Sample]:
    split_folder = ShardFolder(folder, split)
    samples = [split_folder[i] for i in range(len(split_folder))]
    split_folder.close()
    return samples


def test_plain_webdataset_reads_the_same_samples(shards: Path) -> None:
    urls = [str(path) for path in sorted(shards.glob("train-*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files open
        theirs = [
            decode(s["__key__"], {name: s[name] for name in MEMBERS})
            for s in webdataset.WebDataset(urls, shardshuffle=False)
        ]
        gc.collect()
    ours = _samples(shards, "train")
    assert [s.key for s in ours] == [s.key for s in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("image", "fine", "coarse", "instance"):
            assert np.array_equal(getattr(mine, name), getattr(other, name))


def test_a_mirrored_sample_is_mirrored_in_all_its_maps(shards: Path) -> None:
    sample = _samples(shards, "train")[0]
    batch = Batch.collate([sample, sample], [False, True])
    for name in ("image", "fine", "coarse", "instance"):
        straight, mirrored = getattr(batch, name)
        assert torch.equal(straight.flip(-1), mirrored)
    assert batch.image.dtype == torch.uint8
    assert batch.fine.dtype == batch.instance.dtype == torch.int64
    never = config_for(shards, "data.flip=false", "training.batch_size=8")
    for batch in islice(training_batches(never, 0, 0, 1), 3):
        for key, image in zip(batch.keys, batch.image, strict=True):
            original = next(s for s in _samples(shards, "train") if s.key == key)
            assert torch.equal(image, torch.from_numpy(original.image.copy()).permute(2, 0, 1))


def test_batches_are_decoded_and_put_together_off_the_main_thread(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = set()

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            at_work.add(threading.current_thread().name.split("_")[0])
            return function(*arguments)

        return call

    monkeypatch.setattr(Batch, "collate", noted(Batch.collate))
    monkeypatch.setattr(ShardFolder, "__getitem__", noted(ShardFolder.__getitem__))
    batch = next(training_batches(config_for(shards, "training.batch_size=8"), 0, 0, 1))
    assert len(batch.keys) == 8
    assert at_work == {"decode"}


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def message(folder: Path, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        next(training_batches(config_for(folder, *words), 0, 0, 1))
    return str(caught.value)


def test_a_missing_or_unfinished_folder_is_named(copy: Path, tmp_path: Path) -> None:
    assert "no shards at" in message(tmp_path / "nowhere")
    manifest = copy / "manifest.json"
    whole = manifest.read_text()
    manifest.write_text("{")
    assert "is not a shard manifest" in message(copy)
    manifest.write_text(json.dumps(json.loads(whole) | {"schema_version": 99}))
    assert "schema version 99; this program reads 1" in message(copy)
    manifest.unlink()
    assert "no manifest.json, so it is unfinished" in message(copy)


@pytest.mark.parametrize("damage", ["cut in a header", "flipped bit", "gone"])
def test_a_damaged_shard_is_named_when_it_is_first_opened(copy: Path, damage: str) -> None:
    shard = copy / "train-000000.tar"
    content = bytearray(shard.read_bytes())
    if damage == "cut in a header":  # plain webdataset reads this without any error
        shard.write_bytes(content[: len(content) // 2 // 512 * 512 + 100])
    elif damage == "flipped bit":
        content[700] ^= 1
        shard.write_bytes(content)
    else:
        shard.unlink()
    text = message(copy, "training.batch_size=16")
    assert "train-000000.tar" in text
    assert "or leave it out: data.bad_shards=skip" in text


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)


def test_damaged_shards_can_be_left_out(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_for(copy, "training.batch_size=4")
    assert find_bad_shards(config.data, ("train", "val"), 0, 1) == set()
    assert "left out" not in capsys.readouterr().err
    flip_a_bit(copy / "train-000001.tar")
    (copy / "train-000003.tar").unlink()
    longer = copy / "val-000000.tar"
    longer.write_bytes(longer.read_bytes() + bytes(512))
    bad = {"train-000001.tar", "train-000003.tar", "val-000000.tar"}
    for world_size in (1, 2, 3, 9):  # more ranks than shards too: each shard is read by one
        bad_names = [
            find_bad_shards(config.data, ("train", "val"), rank, world_size)
            for rank in range(world_size)
        ]
        assert sorted(name for names in bad_names for name in names) == sorted(bad)
    errors = capsys.readouterr().err
    assert f"left out: shard {copy / 'train-000001.tar'} is damaged: " in errors
    assert f"left out: shard {copy / 'train-000003.tar'} cannot be read: No such file" in errors
    kept = {
        sample["key"]
        for split in read_manifest(copy)["splits"].values()
        for shard in split["shards"]
        for sample in shard["samples"]
        if shard["name"] not in bad
    }
    batches = training_batches(config, 0, 0, 1, bad)
    seen = [key for batch in islice(batches, 2) for key in batch.keys]
    batches.close()
    seen += [key for batch in val_batches(config, 0, 1, bad) for key in batch.keys]
    assert sorted(seen) == sorted(kept)
    assert len(seen) == 8 + 2  # 4 shards of 4 and 2 of 3 and 2 samples, less the bad ones


def test_nothing_is_left_to_train_on_without_any_shard(copy: Path) -> None:
    for path in copy.glob("train-*.tar"):
        flip_a_bit(path)
    config = config_for(copy)
    bad = find_bad_shards(config.data, ("train", "val"), 0, 1)
    with pytest.raises(UserError, match="split 'train' is empty without the 4 damaged shards"):
        training_batches(config, 0, 0, 1, bad)
    assert sum(len(batch.keys) for batch in val_batches(config, 0, 1, bad)) == 5


Facts = dict[str, Any]


def no_sample_of_the_last_shard(facts: Facts) -> None:
    facts["splits"]["train"]["shards"][-1]["samples"].pop()


def one_sample_more(facts: Facts) -> None:
    facts["splits"]["train"]["num_samples"] += 1


def a_member_before_the_file(facts: Facts) -> None:
    facts["splits"]["train"]["shards"][0]["samples"][0]["members"]["fine.png"][0] = -512


def a_size_that_is_no_number(facts: Facts) -> None:
    facts["splits"]["train"]["shards"][0]["samples"][0]["members"]["fine.png"][1] = "12"


def no_digest(facts: Facts) -> None:
    facts["splits"]["train"]["shards"][0]["sha256"] = "0"


def a_member_behind_the_file(facts: Facts) -> None:
    facts["splits"]["train"]["shards"][0]["samples"][0]["members"]["fine.png"][1] = 10**15


def a_member_of_another_one(facts: Facts) -> None:
    members = facts["splits"]["train"]["shards"][0]["samples"][0]["members"]
    members["fine.png"][0] += 512


def no_fine_mask(facts: Facts) -> None:
    del facts["splits"]["train"]["shards"][0]["samples"][0]["members"]["fine.png"]


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (no_sample_of_the_last_shard, "train-000003.tar: lists 3 samples and says 4"),
        (one_sample_more, "num_samples 17, its shards say 16"),
        (a_member_before_the_file, "fine.png lies at -512"),
        (a_size_that_is_no_number, "fine.png lies at"),
        (no_digest, "train-000000.tar: sha256 '0'"),
        (a_member_behind_the_file, "but its last member ends at 10000000000"),
        (a_member_of_another_one, "fine.png is not a whole PNG"),
        (no_fine_mask, "fine.png"),
    ],
)
def test_a_manifest_that_contradicts_itself_or_its_shards_is_refused(
    copy: Path, edit: Callable[[Facts], None], reason: str
) -> None:
    manifest = copy / "manifest.json"
    facts = json.loads(manifest.read_text())
    edit(facts)
    manifest.write_text(json.dumps(facts))
    text = message(copy, "training.batch_size=16")  # raised in a decoding thread, or before
    assert reason in text
    assert str(copy) in text


def test_an_empty_split_another_size_and_an_unknown_split_are_errors(copy: Path) -> None:
    assert "data.size=64x64, but the shards" in message(copy, "data.size=64x64")
    manifest = copy / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["splits"]["val"] |= {"num_samples": 0, "shards": []}
    del facts["splits"]["train"]
    manifest.write_text(json.dumps(facts))
    with pytest.raises(UserError, match="split 'val' is empty"):
        next(val_batches(config_for(copy), 0, 1))
    assert "has no split 'train'; there are: val" in message(copy)


def test_the_manifest_hashes_what_is_on_disk(shards: Path) -> None:
    facts = json.loads((shards / "manifest.json").read_text())
    for split in facts["splits"].values():
        for shard in split["shards"]:
            content = (shards / shard["name"]).read_bytes()
            assert hashlib.sha256(content).hexdigest() == shard["sha256"]
            assert len(content) == shard["num_bytes"]


def test_images_that_a_run_passes_over_are_not_read(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(shards, "training.batch_size=4", "data.threads=1")
    read: list[int] = []
    get = ShardFolder.__getitem__
    monkeypatch.setattr(
        ShardFolder, "__getitem__", lambda self, index: read.append(index) or get(self, index)
    )
    with closing(training_batches(config, 0, 0, 1, passed_over=[(4, 12)])) as batches:
        positions = [next(batches).positions for _ in range(2)]
    assert positions == [(0, 1, 2, 3), (12, 13, 14, 15)]
    order = training_order(config.seed, (4, 4, 4, 4), 0, 16)
    assert not {index for index, _ in order[4:12]} & set(read[:8])
