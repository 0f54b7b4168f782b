"""Batches from WebDataset shards in an order that depends on (seed, images seen) alone.

The tars are standard WebDataset; their manifest also holds where each member lies, so any sample
is one read away. Global batch b of a run therefore holds the same samples on any number of
processes and threads, a resumed run needs no loader state, and each val sample is seen once.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from maskrestore.config.run import RunConfig
from maskrestore.data.damage import damage
from maskrestore.data.sample import Sample
from maskrestore.data.sampler import seed_of, training_order, training_spans
from maskrestore.data.shard_folder import ShardFolder, open_split
from maskrestore.utils.errors import ConfigError

Plan = list[tuple[int, bool, int]]
"""A batch before it is read: sample id, whether mirrored, position."""


@dataclass(frozen=True)
class Batch:
    """Samples of one size. image: uint8 [B,3,H,W]; fine, coarse, instance: int64 [B,H,W].

    positions: the images that the run had seen before each (in val: the samples before it). kinds:
    what damaged each coarse mask, one of damage.KINDS. Both are the loader's, and empty in a batch
    that was not read by it.
    """

    keys: tuple[str, ...]
    image: Tensor
    fine: Tensor
    coarse: Tensor
    instance: Tensor
    positions: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()

    @classmethod
    def collate(
        cls,
        samples: Sequence[Sample],
        flips: Sequence[bool],
        pin: bool = False,
        positions: tuple[int, ...] = (),
        kinds: tuple[str, ...] = (),
    ) -> Self:
        """A batch of samples, mirrored left to right where flips says so.

        pin: in page-locked memory, from which a GPU copies without waiting.
        """
        image = (len(samples), 3, *samples[0].fine.shape)
        maps = (3, len(samples), *samples[0].fine.shape)
        num_bytes = 8 * math.prod(maps) + math.prod(image)
        # One piece, and not torch's: numpy asks for huge pages. Memory that is new for every batch
        # otherwise takes about as long to be mapped, 4 kB at a time, as its samples to be decoded.
        memory = (
            torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
            if pin
            else torch.from_numpy(np.empty(num_bytes, np.uint8))
        )
        maps_memory, image_memory = memory.split([8 * math.prod(maps), math.prod(image)])
        stacked = [image_memory.view(image), *maps_memory.view(torch.int64).view(maps)]
        for name, tensor in zip(("image", "fine", "coarse", "instance"), stacked, strict=True):
            arrays = [getattr(sample, name) for sample in samples]
            mirrored = [a[:, ::-1] if flip else a for a, flip in zip(arrays, flips, strict=True)]
            if name == "image":
                mirrored = [a.transpose(2, 0, 1) for a in mirrored]
            np.stack(mirrored, out=tensor.numpy())  # turned and widened on the way
        keys = tuple(sample.key for sample in samples)
        return cls(keys, stacked[0], stacked[1], stacked[2], stacked[3], positions, kinds)

    def split(self, num_parts: int) -> list[Self]:
        """Equal parts, in their order; the batch size must be a multiple of their number."""
        size, rest = divmod(len(self.keys), num_parts)
        if rest:
            raise ValueError(f"{len(self.keys)} samples cannot be cut into {num_parts} equal parts")
        values = [getattr(self, field.name) for field in fields(self)]
        starts = range(0, len(self.keys), size)
        return [type(self)(*(value[at : at + size] for value in values)) for at in starts]

    def to(self, device: torch.device) -> Self:
        """The same batch on a device; the copy to a GPU does not wait."""
        if device.type == "cpu":
            return self
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: sent(value, device) for name, value in values.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; the host does not wait for its copy to a GPU."""
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)  # as it is where it is pinned


def training_batches(
    config: RunConfig,
    start_image: int,
    rank: int,
    world_size: int,
    left_out: Collection[str] = (),
    passed_over: Sequence[tuple[int, int]] = (),
) -> Generator[Batch]:
    """This rank's part of every global batch from image number `start_image` on, without end.

    passed_over: windows of images (from, to) that the run does not train on, nor read.
    """
    folder = open_split(config.data, "train", left_out)
    batch_size = config.training.batch_size
    share, window = batch_size // world_size, config.data.shuffle_shards
    groups = config.data.labels.confused
    mirror, few = config.data.flip, config.data.num_true_masks
    if few > len(folder):
        raise ConfigError(f"data.num_true_masks={few}: there are {len(folder)} training images")

    def plan() -> Iterator[Plan]:
        for start, _, is_trained in training_spans(start_image, batch_size, passed_over):
            if not is_trained:
                continue
            order = training_order(config.seed, folder.sizes, start, batch_size, window, few)
            places = [(i, flip and mirror, at) for at, (i, flip) in enumerate(order, start)]
            yield places[rank * share : (rank + 1) * share]

    def read(index: int, position: int) -> tuple[Sample, str]:
        seed = seed_of("damage", config.seed, position)
        sample, kind = damage(
            folder[index], config.degradation, config.degrade.sampling, seed, groups
        )
        if config.data.crop is not None:  # of the mask that somebody damaged as a whole
            place = seed_of("crop", config.seed, position)
            sample = sample.cut(config.data.network_size, place)
        return sample, kind

    return _prefetched(config, folder, plan(), read)


def val_batches(
    config: RunConfig, rank: int, world_size: int, left_out: Collection[str] = ()
) -> Generator[Batch]:
    """This rank's share of the val split, in order; over all ranks each sample exactly once.

    What damages a mask depends on its sample alone: every evaluation of every run sees the same.
    """
    folder, groups = open_split(config.data, "val", left_out), config.data.labels.confused
    mine = range(rank, len(folder), world_size)
    size = config.evaluation.batch_size
    plan = ([(i, False, i) for i in mine[at : at + size]] for at in range(0, len(mine), size))

    def read(index: int, _: int) -> tuple[Sample, str]:
        sample = folder[index]
        seed = seed_of("damage", sample.key)
        return damage(sample, config.degradation, config.degrade.sampling, seed, groups)

    return _prefetched(config, folder, plan, read)


def _prefetched(
    config: RunConfig,
    folder: ShardFolder,
    plan: Iterator[Plan],
    read: Callable[[int, int], tuple[Sample, str]],
) -> Generator[Batch]:
    """Batches read and put together by threads, a few ahead; pinned where a GPU is used.

    read: of a sample id and a position, the sample and the kind of its damage. PNG decoding and
    copying let other threads run.
    """
    pin = torch.cuda.is_available() and config.distributed.device != "cpu"
    # A thread that pins memory would else open the first GPU, whichever one this process uses.
    begin = partial(torch.cuda.set_device, torch.cuda.current_device()) if pin else None
    pool = ThreadPoolExecutor(config.data.threads, "decode", begin)
    ahead: deque[Future[Batch]] = deque()
    try:
        for batch in plan:
            samples = [pool.submit(read, index, position) for index, _, position in batch]
            # Work is begun in the order of submission: whoever waits here waits for others that
            # are at work, never for what is still in the queue.
            ahead.append(pool.submit(_collate, samples, batch, pin))
            if len(ahead) > config.data.prefetch_batches:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        folder.close()


def _collate(reading: list[Future[tuple[Sample, str]]], plan: Plan, pin: bool) -> Batch:
    samples, kinds = zip(*(sample.result() for sample in reading), strict=True)
    _, flips, positions = zip(*plan, strict=True)
    return Batch.collate(samples, flips, pin, positions, kinds)
