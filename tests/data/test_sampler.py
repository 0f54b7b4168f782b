"""The order of samples: a function of (seed, images seen) alone, on any ranks, threads, shards."""

from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.loader import training_batches, val_batches
from maskrestore.data.manifest import read_manifest
from maskrestore.data.sampler import has_true_mask, training_order, training_spans
from maskrestore.utils.errors import ConfigError
from shards.write import WriteConfig, write_shards

SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=8).map(tuple)
SEEDS = st.integers(0, 2**31)
NUM_TRAIN, NUM_VAL = 13, 5


def config_for(folder: Path, *words: str) -> RunConfig:
    return load_config([f"data.shards={folder}", "data.size=32x64", *words])


def samples_of(
    config: RunConfig, start: int, count: int, world_size: int
) -> list[tuple[str, bytes]]:
    """Keys and pixels of `count` global batches, the ranks' parts put together."""
    parts = [training_batches(config, start, rank, world_size) for rank in range(world_size)]
    samples = []
    for _ in range(count):
        for part in parts:
            batch = next(part)
            assert len(batch.keys) == config.training.batch_size // world_size
            samples += zip(batch.keys, (i.numpy().tobytes() for i in batch.image), strict=True)
    for part in parts:
        part.close()
    return samples


@given(seed=SEEDS, sizes=SIZES, window=st.integers(0, 9), start=st.integers(0, 500))
@settings(deadline=None, max_examples=100)
def test_the_order_is_a_pure_function_of_seed_and_images_seen(
    seed: int, sizes: tuple[int, ...], window: int, start: int
) -> None:
    whole = training_order(seed, sizes, 0, start + 60, window)
    assert training_order(seed, sizes, start, 60, window) == whole[start:]
    n = sum(sizes)
    epoch = training_order(seed, sizes, start // n * n, n, window)
    assert sorted(i for i, _ in epoch) == list(range(n))


@given(seed=SEEDS, sizes=SIZES, window=st.integers(1, 9), epoch=st.integers(0, 5))
@settings(deadline=None, max_examples=100)
def test_a_window_is_read_to_its_end_before_the_next_one_begins(
    seed: int, sizes: tuple[int, ...], window: int, epoch: int
) -> None:
    total = sum(sizes)
    shard_of = [number for number, size in enumerate(sizes) for _ in range(size)]
    order = training_order(seed, sizes, epoch * total, total, window)
    read = [shard_of[i] for i, _ in order]
    shards = list(dict.fromkeys(read))  # in the order in which they are first opened
    windows = [set(shards[at : at + window]) for at in range(0, len(shards), window)]
    if window < len(sizes):
        ends = [0, *accumulate(sum(sizes[i] for i in some) for some in windows)]
        for some, (start, end) in zip(windows, pairwise(ends), strict=True):
            assert set(read[start:end]) == some
    else:
        assert order == training_order(seed, sizes, epoch * total, total, 0)


def test_without_a_window_the_order_is_one_permutation_of_all_samples() -> None:
    """These numbers must not change: runs on disk are resumed by them."""
    for epoch in range(3):
        generator = np.random.default_rng([7, epoch])
        ids, flips = generator.permutation(20), generator.random(20) < 0.5
        for sizes, window in (((20,), 0), ((5, 5, 5, 5), 0), ((1, 12, 7), 3), ((13, 7), 9)):
            order = training_order(7, sizes, 20 * epoch, 20, window)
            assert order == list(zip(ids.tolist(), flips.tolist(), strict=True))
    assert [i for i, _ in training_order(0, (8,), 0, 8)] == [2, 4, 3, 6, 5, 0, 1, 7]


@pytest.mark.parametrize("window", [0, 1, 3])
def test_epochs_and_seeds_shuffle_differently(window: int) -> None:
    sizes = (4,) * 8
    first, second = (training_order(0, sizes, at, 32, window) for at in (0, 32))
    assert first != second
    assert first != training_order(1, sizes, 0, 32, window)
    ids = [i for i, _ in first]
    assert [i // 4 for i in ids[::4]] != list(range(8))  # the shards are shuffled,
    assert sum(after == before + 1 for before, after in pairwise(ids)) < 16
    # and so are the samples in each: else 24 would follow on their neighbours.


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same 13 train and 5 val scenes in 13 and 5, 5 and 2, 1 and 1 shards."""
    out = {size: tmp_path_factory.mktemp(f"shards_of_{size}") for size in (1, 3, 13)}
    for size, folder in out.items():
        words: dict[str, Any] = {"source": "streetscenes", "size": "32x64", "workers": 1}
        words |= {"num_train": NUM_TRAIN, "num_val": NUM_VAL, "samples_per_shard": size}
        write_shards(WriteConfig(out=folder, **words))
    return out


@pytest.mark.slow
@given(
    per_shard=st.sampled_from([1, 3, 13]),
    world_size=st.integers(1, 4),
    threads=st.integers(1, 3),
    share=st.integers(1, 4),
    window=st.integers(0, 4),
    done=st.integers(0, 12),
    seed=SEEDS,
)
@settings(deadline=None, max_examples=25)
def test_ranks_threads_and_resumption_change_no_global_batch(
    folders: dict[int, Path],
    per_shard: int,
    world_size: int,
    threads: int,
    share: int,
    window: int,
    done: int,
    seed: int,
) -> None:
    size = share * world_size
    words = [f"training.batch_size={size}", f"data.shuffle_shards={window}", f"seed={seed}"]
    alone = config_for(folders[per_shard], *words, "data.threads=1")
    count = -(-2 * NUM_TRAIN // size)
    expected = samples_of(alone, 0, count, 1)
    for start in (0, NUM_TRAIN):  # each of two epochs
        assert len({key for key, _ in expected[start : start + NUM_TRAIN]}) == NUM_TRAIN
    done = min(done, count - 1)
    spread = config_for(folders[per_shard], *words, f"data.threads={threads}")
    rest = samples_of(spread, done * size, count - done, world_size)
    assert rest == expected[done * size :]


@given(
    per_shard=st.sampled_from([1, 3, 13]),
    world_size=st.integers(1, NUM_VAL + 3),
    threads=st.integers(1, 3),
    size=st.integers(1, 6),
)
@settings(deadline=None, max_examples=25)
def test_val_samples_are_seen_once_on_any_number_of_ranks(
    folders: dict[int, Path], per_shard: int, world_size: int, threads: int, size: int
) -> None:
    """Also on more ranks than shards or samples."""
    folder = folders[per_shard]
    config = config_for(folder, f"evaluation.batch_size={size}", f"data.threads={threads}")
    seen = [
        key
        for rank in range(world_size)
        for batch in val_batches(config, rank, world_size)
        for key in batch.keys
    ]
    shards = read_manifest(folder)["splits"]["val"]["shards"]
    assert sorted(seen) == sorted(s["key"] for shard in shards for s in shard["samples"])


def test_the_spans_of_a_run_are_its_batches_and_the_windows_between_them() -> None:
    windows = [(8, 16), (16, 20), (28, 32)]
    spans = list(islice(training_spans(4, 4, windows), 5))
    assert spans == [(4, 8, True), (8, 20, False), (20, 24, True), (24, 28, True), (28, 32, False)]
    assert next(training_spans(12, 4, windows)) == (12, 20, False)  # resumed within a window
    assert list(islice(training_spans(0, 4), 2)) == [(0, 4, True), (4, 8, True)]


@pytest.mark.parametrize("few", [1, 3, 10])
def test_with_few_true_masks_every_other_sample_is_one_of_them(few: int) -> None:
    sizes = (4, 3, 3)
    plain = training_order(5, sizes, 0, 60)
    order = training_order(5, sizes, 0, 60, num_true_masks=few)
    assert order[1::2] == plain[1::2]
    assert [flip for _, flip in order] == [flip for _, flip in plain]
    assert {sample for sample, _ in order[0::2]} == {10 * number // few for number in range(few)}
    assert order[20:] == training_order(5, sizes, 20, 40, num_true_masks=few)
    assert [has_true_mask(position, few) for position in range(4)] == [True, False, True, False]
    assert has_true_mask(1, 0)


def test_more_true_masks_than_there_are_images(shards: Path) -> None:
    config = load_config([f"data.shards={shards}", "data.size=32x64", "data.num_true_masks=17"])
    with pytest.raises(ConfigError, match=r"data\.num_true_masks=17: there are 16 training images"):
        next(training_batches(config, 0, 0, 1))
