"""Damaged masks: what each kind leaves of the true one, and that nothing but the sample decides."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from label_sets import CITYSCAPES
from numpy.typing import NDArray
from scipy import ndimage

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.damage import (
    KINDS,
    MAX_STROKES,
    MIN_REGION,
    WRONG,
    boundary,
    damage,
    drop,
    labels,
    regions,
    scribbles,
    smaller,
)
from maskrestore.data.degrade import nearest_downsample, nearest_upsample
from maskrestore.data.loader import Batch, training_batches, val_batches
from maskrestore.data.sample import Sample
from maskrestore.data.shard_folder import ShardFolder
from shards.write import WriteConfig, write_shards

CONFUSED = CITYSCAPES.confused


def draws(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("scene")
    write_shards(WriteConfig(size="96x192", num_train=1, num_val=1, out=folder, workers=1))
    split = ShardFolder(folder, "train")
    sample = split[0]
    split.close()
    return sample


@pytest.fixture(scope="module")
def parts(scene: Sample) -> NDArray[np.int32]:
    """The regions of the scene: things one by one, everything else by class."""
    return regions(np.where(scene.instance >= 1000, scene.instance, scene.fine))


def test_regions_are_the_connected_parts_of_each_id(scene: Sample) -> None:
    number, num_regions = regions(scene.fine), 0
    for name in np.unique(scene.fine):
        plain, count = ndimage.label(scene.fine == name)
        num_regions += count
        pairs = set(zip(plain[plain > 0].tolist(), number[plain > 0].tolist(), strict=True))
        assert len(pairs) == len({ours for _, ours in pairs}) == count
    assert number.max() == num_regions
    assert number.min() == 1


def test_regions_are_numbered_as_by_a_walk_over_the_pixels() -> None:
    """Which ones are dropped or renamed hangs on it, in runs that go on too."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width, num_ids = rng.integers(1, 40), rng.integers(1, 40), rng.integers(1, 5)
        ids = rng.integers(0, num_ids, (height, width)).repeat(rng.integers(1, 4), 0)
        joined = np.zeros((2 * len(ids) - 1, 2 * width - 1), bool)
        joined[::2, ::2] = True
        joined[1::2, ::2] = ids[1:] == ids[:-1]
        joined[::2, 1::2] = ids[:, 1:] == ids[:, :-1]
        number = regions(ids)
        assert number.dtype == np.int32
        assert np.array_equal(number, ndimage.label(joined)[0][::2, ::2])


def test_drop_leaves_out_half_of_the_polygons_and_cuts_none() -> None:
    coarse = np.zeros((8, 30), np.uint8)
    for polygon in range(5):
        coarse[1:7, 6 * polygon : 6 * polygon + 4] = (7, 11, 7, 26, 7)[polygon]
    kept_ever = Counter()
    for seed in range(20):
        dropped = drop(coarse, draws(seed))
        kept = [polygon for polygon in range(5) if dropped[3, 6 * polygon]]
        assert len(kept) == 3
        for polygon in range(5):
            box = slice(6 * polygon, 6 * polygon + 6)
            assert np.array_equal(dropped[:, box], coarse[:, box] * (polygon in kept))
        kept_ever.update(kept)
    assert set(kept_ever) == set(range(5))
    assert np.array_equal(drop(coarse[:, :6], draws()), coarse[:, :6])  # one at least is left
    assert not drop(np.zeros((4, 4), np.uint8), draws()).any()


def test_scribbles_are_true_paths_in_every_region(scene: Sample, parts: NDArray[np.int32]) -> None:
    scribbled = scribbles(scene.fine, scene.instance, draws())
    annotated = scribbled > 0
    assert np.array_equal(scribbled[annotated], scene.fine[annotated])
    assert 0.01 < annotated.mean() < 0.2
    areas = np.bincount(parts.ravel())
    for region in range(1, parts.max() + 1):
        mine = annotated & (parts == region)
        _, count = ndimage.label(mine, np.ones((3, 3)))
        least = areas[region] >= MIN_REGION * parts.size and scene.fine[parts == region][0] > 0
        assert (1 if least else 0) <= count <= (MAX_STROKES if least else 0)
        assert mine.sum() <= MAX_STROKES * (4 * areas[region] ** 0.5 + 9)


def test_borders_wander_by_a_few_pixels(scene: Sample) -> None:
    wandered = boundary(scene.fine, draws())
    changed = wandered != scene.fine
    assert 0.005 < changed.mean() < 0.2
    for name in np.unique(wandered):
        reach = ndimage.distance_transform_edt(scene.fine != name)
        assert reach[wandered == name].max() < 6  # pixels; the standard deviation is 1
    # Smoothly: what belonged together falls into few more pieces.
    assert regions(wandered).max() < 2 * regions(scene.fine).max()


def test_wrong_labels_are_those_of_whole_regions(scene: Sample, parts: NDArray[np.int32]) -> None:
    areas = np.bincount(parts.ravel())
    names = np.zeros(len(areas), int)
    names[parts] = scene.fine
    known = np.isin(names, sum(CONFUSED, ()))
    eligible = np.flatnonzero(known & (areas >= MIN_REGION * parts.size))
    alike = 0
    for seed in range(20):
        wrong = labels(scene.fine, scene.instance, draws(seed), CONFUSED)
        new = np.zeros(len(areas), int)
        new[parts] = wrong
        assert np.array_equal(new[parts], wrong)
        changed = np.flatnonzero(new != names)
        assert len(changed) == round(WRONG * len(eligible))
        assert set(changed) <= set(eligible)
        for region in changed:
            group = next(group for group in CONFUSED if names[region] in group)
            alike += new[region] in group
            assert new[region] in group or new[region] in names[eligible]
    assert 0.3 < alike / (20 * round(WRONG * len(eligible))) < 0.9
    one = np.full((8, 8), 23, np.uint8)  # nothing else that it could be called
    assert np.array_equal(labels(one, one.astype(int), draws(), CONFUSED), one)


@pytest.mark.parametrize("sampling", ["corner", "center"])
@pytest.mark.parametrize("factor", [4, 8, 16])
def test_smaller_maps_are_those_of_super_resolution(
    scene: Sample, factor: int, sampling: str
) -> None:
    fine = torch.from_numpy(scene.fine.astype(np.int64))[None]
    expected = nearest_upsample(nearest_downsample(fine, factor, sampling), factor)[0]
    made = smaller(scene.fine, factor, sampling)
    assert np.array_equal(made, expected.numpy())
    again, kind = damage(scene, f"smaller_{factor}", sampling, 0, CONFUSED)
    assert np.array_equal(again.coarse, made)
    assert kind == f"smaller_{factor}"


def test_the_seed_decides_and_only_the_coarse_mask_changes(scene: Sample) -> None:
    for kind in ("drop", "scribbles", "boundary", "labels"):
        first, again, other = (
            damage(scene, kind, "corner", seed, CONFUSED)[0] for seed in (1, 1, 2)
        )
        assert np.array_equal(first.coarse, again.coarse), kind
        assert not np.array_equal(first.coarse, other.coarse), kind
        assert first.coarse.dtype == np.uint8
        assert replace(first, coarse=scene.coarse) == scene
    assert damage(scene, "task", "corner", 1, CONFUSED) == (scene, "task")


def test_a_mixture_has_all_kinds_in_equal_parts() -> None:
    maps = [np.full((16, 16), value) for value in (7, 11, 0)]
    tiny = Sample("k", np.zeros((16, 16, 3), np.uint8), *(m.astype(np.uint8) for m in maps))
    counts = Counter(damage(tiny, "mixture", "corner", seed, CONFUSED)[1] for seed in range(800))
    assert set(counts) == set(KINDS)
    assert all(60 < count < 145 for count in counts.values())  # 100 and 4.7 standard deviations
    given = {damage(tiny, "mixture", "corner", s, CONFUSED)[1]: s for s in range(100)}
    assert (damage(tiny, "mixture", "corner", given["task"], CONFUSED)[0].coarse == 11).all()


# The loader.


def config_for(folder: Path, *words: str) -> RunConfig:
    return load_config([f"data.shards={folder}", "data.size=32x64", *words])


def masks_of(batches: list[Batch]) -> list[tuple[str, int, str, bytes]]:
    """Key, position, kind and coarse mask of each sample."""
    return [
        (key, position, kind, mask.numpy().tobytes())
        for batch in batches
        for key, position, kind, mask in zip(
            batch.keys, batch.positions, batch.kinds, batch.coarse, strict=True
        )
    ]


def train_masks(config: RunConfig, start: int, count: int, world_size: int = 1) -> list:
    ranks = [training_batches(config, start, rank, world_size) for rank in range(world_size)]
    batches = [next(rank) for _ in range(count) for rank in ranks]
    for rank in ranks:
        rank.close()
    return masks_of(batches)


def test_training_draws_by_seed_and_images_seen_alone(shards: Path) -> None:
    words = ("training.batch_size=8", "degradation=mixture")
    whole = train_masks(config_for(shards, *words), 0, 6)
    assert [position for _, position, _, _ in whole] == list(range(48))
    threads = config_for(shards, *words, "data.threads=3")
    for world_size in (1, 2, 4):
        assert train_masks(threads, 16, 4, world_size) == whole[16:]
    other = train_masks(config_for(shards, *words, "seed=1"), 0, 6)
    assert [kind for *_, kind, _ in other] != [kind for *_, kind, _ in whole]
    seen = {key: {kind for k, _, kind, _ in whole if k == key} for key, *_ in whole}
    assert any(len(kinds) > 1 for kinds in seen.values())  # another mask in each epoch


def test_val_masks_are_the_same_in_every_evaluation(shards: Path) -> None:
    def val_masks(world_size: int, *words: str) -> dict[str, tuple[str, bytes]]:
        config = config_for(shards, "degradation=mixture", *words)
        ranks = [list(val_batches(config, rank, world_size)) for rank in range(world_size)]
        return {key: (kind, mask) for rank in ranks for key, _, kind, mask in masks_of(rank)}

    first = val_masks(1)
    assert len(first) == 5
    assert len({kind for kind, _ in first.values()}) > 1
    assert val_masks(2, "seed=9", "data.threads=1", "evaluation.batch_size=2") == first


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_a_mixture_can_be_had_alone(shards: Path, kind: str) -> None:
    for batch in val_batches(config_for(shards, f"degradation={kind}"), 0, 1):
        assert set(batch.kinds) == {kind}


def test_a_damaged_mask_is_mirrored_with_its_image(shards: Path) -> None:
    config = config_for(shards, "training.batch_size=16", "degradation=scribbles")
    batches = training_batches(config, 0, 0, 1)
    batch = next(batches)
    batches.close()
    annotated = batch.coarse > 0
    assert set(batch.kinds) == {"scribbles"}
    assert annotated.flatten(1).any(1).all()
    assert torch.equal(batch.coarse[annotated], batch.fine[annotated])


def test_without_a_degradation_the_coarse_masks_are_taken_as_they_are(shards: Path) -> None:
    batches = training_batches(config_for(shards, "data.flip=false"), 0, 0, 1)
    split = ShardFolder(shards, "train")
    coarse = {sample.key: sample.coarse for sample in (split[i] for i in range(len(split)))}
    for batch in islice(batches, 2):
        assert set(batch.kinds) == {"task"}
        for key, mask in zip(batch.keys, batch.coarse, strict=True):
            assert np.array_equal(mask.numpy(), coarse[key])
    batches.close()
    split.close()


def test_what_the_loader_knows_of_a_sample_goes_with_it(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(shards, "training.batch_size=8", "degradation=mixture")
    batches = training_batches(config, 8, 0, 1)
    batch = next(batches)
    batches.close()
    halves = batch.split(2)
    assert halves[1].positions == (12, 13, 14, 15)
    assert halves[0].kinds + halves[1].kinds == batch.kinds
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # there is no GPU
    moved = batch.to(torch.device("meta"))
    assert moved.coarse.device.type == "meta"
    assert (moved.kinds, moved.positions) == (batch.kinds, batch.positions)
