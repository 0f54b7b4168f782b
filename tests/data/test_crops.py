"""data.crop: pieces of the samples, drawn by the seed and the images seen alone."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.damage import damage
from maskrestore.data.loader import Batch, training_batches, val_batches
from maskrestore.data.sample import Sample
from maskrestore.data.sampler import seed_of
from maskrestore.data.shard_folder import ShardFolder
from maskrestore.runs.resume_check import differing_keys

MAPS = ("image", "fine", "coarse", "instance")


def config_for(folder: Path, *words: str) -> RunConfig:
    own = ("data.size=32x64", "data.crop=32x32", "training.batch_size=8", "loss=ce")
    return load_config([f"data.shards={folder}", *own, *words])


def sample_of(height: int, width: int) -> Sample:
    """Each pixel of each map says where it lies."""
    places = np.arange(height * width).reshape(height, width)
    image = np.stack([places % 251, places // width, places % width], -1).astype(np.uint8)
    fine, coarse = (places % 31).astype(np.uint8), (places % 29).astype(np.uint8)
    return Sample("a", image, fine, coarse, places.astype(np.uint16))


def test_a_piece_is_the_same_one_of_all_maps_and_any_place_is_drawn() -> None:
    whole = sample_of(64, 96)
    corners = set()
    for seed in range(3000):
        piece = whole.cut((32, 32), seed)
        y, x = divmod(int(piece.instance[0, 0]), 96)
        corners.add((y, x))
        for name in MAPS:
            expected = getattr(whole, name)[y : y + 32, x : x + 32]
            assert np.array_equal(getattr(piece, name), expected)
    assert {y for y, _ in corners} == set(range(33))
    assert {x for _, x in corners} == set(range(65))
    assert whole.cut((64, 96), 5).fine.shape == (64, 96)


def read(config: RunConfig, start: int, count: int, world_size: int = 1) -> list[Batch]:
    """Batches of all ranks, one rank after the other."""
    ranks = [training_batches(config, start, rank, world_size) for rank in range(world_size)]
    batches = [next(rank) for _ in range(count) for rank in ranks]
    for rank in ranks:
        rank.close()
    return batches


def joined(batches: list[Batch]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in MAPS}


def test_the_order_and_the_pieces_depend_on_seed_and_images_seen_alone(shards: Path) -> None:
    whole = joined(read(config_for(shards), 0, 6))
    assert whole["image"].shape == (48, 3, 32, 32)
    for world_size in (1, 2, 4):  # resumed on other numbers of processes
        rest = joined(read(config_for(shards, "data.threads=3"), 16, 4, world_size))
        assert all(torch.equal(rest[name], whole[name][16:]) for name in MAPS)
    other = joined(read(config_for(shards, "seed=1"), 0, 6))
    assert not torch.equal(other["fine"], whole["fine"])


@pytest.mark.parametrize("degradation", ["task", "drop"])
def test_pieces_are_of_the_mask_that_was_damaged_as_a_whole(shards: Path, degradation: str) -> None:
    config = config_for(shards, f"degradation={degradation}", "data.flip=false")
    folder = ShardFolder(shards, "train")
    samples = {sample.key: sample for sample in (folder[i] for i in range(len(folder)))}
    folder.close()
    for batch in read(config, 0, 2):
        for n, (key, position) in enumerate(zip(batch.keys, batch.positions, strict=True)):
            seed = seed_of("damage", config.seed, position)
            damaged, kind = damage(samples[key], degradation, "corner", seed, ())
            piece = damaged.cut((32, 32), seed_of("crop", config.seed, position))
            assert batch.kinds[n] == kind
            assert np.array_equal(batch.image[n].permute(1, 2, 0).numpy(), piece.image)
            for name in MAPS[1:]:
                assert np.array_equal(getattr(batch, name)[n].numpy(), getattr(piece, name))


def test_whole_samples_are_evaluated(shards: Path) -> None:
    pieces, whole = (
        list(islice(val_batches(config_for(shards, *words), 0, 1), 1))
        for words in ((), ("data.crop=null",))
    )
    for name in MAPS:
        assert torch.equal(getattr(pieces[0], name), getattr(whole[0], name))


def test_a_run_is_not_resumed_with_other_pieces(shards: Path) -> None:
    before, after = config_for(shards), config_for(shards, "data.crop=null")
    assert differing_keys(before, after) == ["data.crop: 32x32 -> None"]
    assert config_for(shards).data.network_size == (32, 32)
    assert after.data.network_size == (32, 64)
