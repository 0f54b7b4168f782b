"""What a run draws at random for its samples: functions of its seed and the images seen, no more.

So any part of a run can be told apart from the rest: by another process, or after a resume.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=4)
def epoch_order(
    seed: int, epoch: int, sizes: tuple[int, ...], window: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sample ids of one pass in their shuffled order, and which of them are mirrored."""
    generator = np.random.default_rng([seed, epoch])
    total = sum(sizes)
    if not 0 < window < len(sizes):
        return generator.permutation(total), generator.random(total) < 0.5
    ids = np.split(np.arange(total), np.cumsum(sizes)[:-1])
    shards = generator.permutation(len(sizes))
    windows = [shards[at : at + window] for at in range(0, len(sizes), window)]
    shuffled = [generator.permutation(np.concatenate([ids[i] for i in some])) for some in windows]
    return np.concatenate(shuffled), generator.random(total) < 0.5


def training_order(
    seed: int,
    sizes: tuple[int, ...],
    start: int,
    count: int,
    window: int = 0,
    num_true_masks: int = 0,
) -> list[tuple[int, bool]]:
    """(sample id, mirrored) of the images number start .. start+count-1 of a run.

    sizes: samples of each shard. window: shards among which samples are shuffled, after the shards
    themselves were; 0 is all. num_true_masks: where `has_true_mask`, one of so many samples.
    """
    order, total = [], sum(sizes)
    for position in range(start, start + count):
        epoch, place = divmod(position, total)
        ids, flips = epoch_order(seed, epoch, sizes, window)
        sample = int(ids[place])
        if num_true_masks and has_true_mask(position, num_true_masks):
            sample = sample % num_true_masks * total // num_true_masks
        order.append((sample, bool(flips[place])))
    return order


def has_true_mask(position: int, num_true_masks: int) -> bool:
    """Whether the cross entropy counts for image number `position` of a run: for each, or, with few
    true masks, for every other one."""
    return not num_true_masks or position % 2 == 0


def seed_of(*parts: str | int) -> int:
    """A seed of 64 bits for one draw; what it is for comes first, so that no two draws share it."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8])


def training_spans(
    start: int, batch_size: int, passed_over: Sequence[tuple[int, int]] = ()
) -> Iterator[tuple[int, int, bool]]:
    """What a run does with its images from number `start` on, without end: (from, to, whether they
    are trained on). Each batch is a span, and so is each window of images that it passes over.

    passed_over: windows (from, to) of whole batches.
    """
    while True:
        stop = start + batch_size
        is_trained = not any(first < stop <= last for first, last in passed_over)
        while not is_trained and any(
            first < stop + batch_size <= last for first, last in passed_over
        ):
            stop += batch_size
        yield start, stop, is_trained
        start = stop
