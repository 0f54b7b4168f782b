"""Batches from WebDataset shards in an order that depends on (seed, images seen) alone.

The tars are standard WebDataset; their manifest also holds where each member lies, so any sample
is one read away. Global batch b of a run therefore holds the same samples on any number of
processes and threads, a resumed run needs no loader state, and each val sample is seen once.
"""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrestore.config import DataConfig, RunConfig
from maskrestore.manifest import read_manifest
from maskrestore.sample import Sample, decode
from maskrestore.settings import UserError


@dataclass(frozen=True)
class Batch:
    """Samples of one size. image: uint8 [B,3,H,W]; fine, coarse, instance: int64 [B,H,W]."""

    keys: tuple[str, ...]
    image: Tensor
    fine: Tensor
    coarse: Tensor
    instance: Tensor

    @classmethod
    def collate(cls, samples: list[Sample], flips: list[bool]) -> Self:
        """A batch of samples, mirrored left to right where flips says so."""

        def stack(name: str) -> Tensor:
            arrays = [getattr(sample, name) for sample in samples]
            mirrored = [a[:, ::-1] if flip else a for a, flip in zip(arrays, flips, strict=True)]
            return torch.from_numpy(np.stack(mirrored))

        image = stack("image").permute(0, 3, 1, 2).contiguous()
        maps = (stack(name).long() for name in ("fine", "coarse", "instance"))
        return cls(tuple(sample.key for sample in samples), image, *maps)

    def to(self, device: torch.device) -> Self:
        """The same batch on a device; the copy to a GPU does not wait."""
        if device.type == "cpu":
            return self
        tensors = [getattr(self, field.name) for field in fields(self)[1:]]
        moved = (tensor.pin_memory().to(device, non_blocking=True) for tensor in tensors)
        return type(self)(self.keys, *moved)


class ShardFolder:
    """The samples of one split of a shard folder, read by index, from any thread.

    Raises UserError if the folder, its manifest or the split is missing, unfinished or empty, and,
    when a shard is first opened, if its size or sha256 is not the manifest's.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        if split not in self.manifest["splits"]:
            known = ", ".join(self.manifest["splits"]) or "none"
            raise UserError(f"{folder} has no split {split!r}; there are: {known}")
        self._shards = self.manifest["splits"][split]["shards"]
        self._index = [
            (number, sample["key"], sample["members"])
            for number, shard in enumerate(self._shards)
            for sample in shard["samples"]
        ]
        if not self._index:
            raise UserError(f"{folder}: split {split!r} is empty; write it again with more samples")
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        number, key, members = self._index[index]
        file = self._open(number)
        return decode(
            key, {name: os.pread(file, size, offset) for name, (offset, size) in members.items()}
        )

    def close(self) -> None:
        """Close the shard files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _open(self, number: int) -> int:
        with self._lock:
            if number not in self._files:
                self._files[number] = open_checked(self.folder, self._shards[number])
            return self._files[number]


def open_checked(folder: Path, shard: dict[str, Any]) -> int:
    """File descriptor of a shard whose size and sha256 are those of the manifest."""
    path = folder / shard["name"]
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"shard {path} cannot be opened: {error.strerror}") from error
    with open(file, "rb", closefd=False) as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    size = os.fstat(file).st_size
    if found != shard["sha256"]:
        os.close(file)
        raise UserError(
            f"shard {path} is damaged: {size} bytes, sha256 {found[:12]}…; its manifest says "
            f"{shard['num_bytes']} bytes, {shard['sha256'][:12]}…. Write the shards again"
        )
    return file


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_samples: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Sample ids of one pass in their shuffled order, and which of them are mirrored."""
    generator = np.random.default_rng([seed, epoch])
    return generator.permutation(num_samples), generator.random(num_samples) < 0.5


def training_order(seed: int, num_samples: int, start: int, count: int) -> list[tuple[int, bool]]:
    """(sample id, mirrored) of the images number start .. start+count-1 of a run."""
    order = []
    for position in range(start, start + count):
        epoch, place = divmod(position, num_samples)
        ids, flips = epoch_order(seed, epoch, num_samples)
        order.append((int(ids[place]), bool(flips[place])))
    return order


def training_batches(
    config: RunConfig, start_image: int, rank: int, world_size: int
) -> Generator[Batch]:
    """This rank's part of every global batch from image number `start_image` on, without end."""
    folder = open_split(config.data, "train")
    batch_size = config.training.batch_size
    share = batch_size // world_size

    def plan() -> Iterator[list[tuple[int, bool]]]:
        start = start_image
        while True:
            order = training_order(config.seed, len(folder), start, batch_size)
            yield order[rank * share : (rank + 1) * share]
            start += batch_size

    mirror = config.data.flip
    return _prefetched(config.data, folder, ([(i, f and mirror) for i, f in b] for b in plan()))


def val_batches(config: RunConfig, rank: int, world_size: int) -> Generator[Batch]:
    """This rank's share of the val split, in order; over all ranks each sample exactly once."""
    folder = open_split(config.data, "val")
    mine = range(rank, len(folder), world_size)
    size = config.evaluation.batch_size
    plan = ([(i, False) for i in mine[at : at + size]] for at in range(0, len(mine), size))
    return _prefetched(config.data, folder, plan)


def open_split(config: DataConfig, split: str) -> ShardFolder:
    """The split that a run reads; UserError if its size is not the one of the settings."""
    folder = ShardFolder(config.shards, split)
    size = f"{folder.manifest['height']}x{folder.manifest['width']}"
    if size != config.size:
        raise UserError(
            f"data.size={config.size}, but the shards in {config.shards} are {size}: "
            f"write data.size={size}, or give another folder as data.shards"
        )
    return folder


def _prefetched(
    config: DataConfig, folder: ShardFolder, plan: Iterator[list[tuple[int, bool]]]
) -> Generator[Batch]:
    """Batches decoded by threads, a few ahead; PNG decoding lets other threads run."""
    pool = ThreadPoolExecutor(config.threads, thread_name_prefix="decode")
    read: Callable[[int], Sample] = folder.__getitem__
    ahead: deque[tuple[list[Future[Sample]], list[bool]]] = deque()
    try:
        for batch in plan:
            ahead.append(([pool.submit(read, index) for index, _ in batch], [f for _, f in batch]))
            if len(ahead) > config.prefetch_batches:
                yield _collate(*ahead.popleft())
        while ahead:
            yield _collate(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
        folder.close()


def _collate(samples: list[Future[Sample]], flips: list[bool]) -> Batch:
    return Batch.collate([sample.result() for sample in samples], flips)
