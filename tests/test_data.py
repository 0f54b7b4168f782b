"""The loader: an order that depends on (seed, images seen) alone, and shards that are checked."""

import gc
import hashlib
import json
import shutil
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrestore.config import RunConfig, load_config
from maskrestore.data import Batch, ShardFolder, training_batches, training_order, val_batches
from maskrestore.sample import MEMBERS, Sample, decode
from maskrestore.settings import UserError


def config_for(folder: Path, *words: str) -> RunConfig:
    return load_config([f"data.shards={folder}", "data.size=32x64", *words])


def keys_of(config: RunConfig, start: int, count: int, world_size: int) -> list[str]:
    """The keys of `count` global batches, the ranks' parts put together."""
    parts = [training_batches(config, start, rank, world_size) for rank in range(world_size)]
    keys = []
    for _ in range(count):
        for part in parts:
            keys += next(part).keys
    for part in parts:
        part.close()
    return keys


@given(seed=st.integers(0, 2**31), n=st.integers(1, 40), start=st.integers(0, 500))
@settings(deadline=None, max_examples=50)
def test_the_order_is_a_pure_function_of_seed_and_images_seen(
    seed: int, n: int, start: int
) -> None:
    whole = training_order(seed, (n,), 0, start + 60)
    assert training_order(seed, (n,), start, 60) == whole[start:]
    epoch = start // n * n
    assert sorted(i for i, _ in training_order(seed, (n,), epoch, n)) == list(range(n))


def test_epochs_and_seeds_shuffle_differently() -> None:
    first, second = training_order(0, (32,), 0, 32), training_order(0, (32,), 32, 32)
    assert first != second
    assert first != training_order(1, (32,), 0, 32)


def test_global_batches_are_the_same_on_any_number_of_ranks_and_threads(shards: Path) -> None:
    config = config_for(shards, "training.batch_size=12")
    alone = keys_of(config, 0, 4, 1)
    for world_size in (2, 3, 4):
        assert keys_of(config, 0, 4, world_size) == alone
    threads = config_for(shards, "training.batch_size=12", "data.threads=5")
    assert keys_of(threads, 0, 4, 2) == alone
    assert keys_of(config, 24, 2, 2) == alone[24:]  # resumed after two batches


def test_each_val_sample_is_seen_exactly_once_on_any_number_of_ranks(shards: Path) -> None:
    config = config_for(shards, "evaluation.batch_size=2")
    everything = [s.key for s in _samples(shards, "val")]
    for world_size in range(1, len(everything) + 3):  # more ranks than samples too
        seen = [
            key
            for rank in range(world_size)
            for batch in val_batches(config, rank, world_size)
            for key in batch.keys
        ]
        assert sorted(seen) == sorted(everything)


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
    assert "train-000000.tar" in message(copy, "training.batch_size=16")


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
