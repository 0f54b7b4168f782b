"""A folder of shards: its samples by number, checked when a shard is opened."""

import hashlib
import os
import sys
import threading
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maskrestore.config.data import DataConfig
from maskrestore.data.fetch import fetch, fetch_manifest
from maskrestore.data.manifest import read_manifest
from maskrestore.data.sample import Sample, decode
from maskrestore.utils.errors import UserError


class ShardFolder:
    """The samples of one split of a shard folder, read by index, from any thread.

    url: where shards are fetched from that are not in the folder yet, when they are first opened.
    left_out: names of shards whose samples do not count. Raises UserError if the folder, its
    manifest or the split is missing, unfinished or empty, and, when a shard is first opened, if it
    cannot be fetched or its size or sha256 is not the manifest's.
    """

    def __init__(
        self, folder: Path, split: str, url: str = "", left_out: Collection[str] = ()
    ) -> None:
        self.folder, self.url = folder, url
        self.manifest = read_manifest(folder)
        if split not in self.manifest["splits"]:
            known = ", ".join(self.manifest["splits"]) or "none"
            raise UserError(f"{folder} has no split {split!r}; there are: {known}")
        every = self.manifest["splits"][split]["shards"]
        self.shards = [shard for shard in every if shard["name"] not in left_out]
        self.sizes = tuple(shard["num_samples"] for shard in self.shards)
        self._index = [
            (number, sample["key"], sample["members"])
            for number, shard in enumerate(self.shards)
            for sample in shard["samples"]
        ]
        if not self._index:
            without = f" without the {len(every)} damaged shards" if every else ""
            raise UserError(
                f"{folder}: split {split!r} is empty{without}; write it again with more samples"
            )
        self._files: dict[int, int] = {}
        self._failures: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        number, key, members = self._index[index]
        file = self._open(number)
        try:
            return decode(
                key, {name: os.pread(file, size, at) for name, (at, size) in members.items()}
            )
        except (OSError, ValueError) as error:
            path = self.folder / self.shards[number]["name"]
            raise UserError(f"shard {path} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the shard files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _open(self, number: int) -> int:
        with self._lock:
            if number in self._failures:  # other threads have waited for the same shard
                raise UserError(self._failures[number])
            if number not in self._files:
                try:
                    file = open_checked(self.folder, self.shards[number], self.url)
                except UserError as error:
                    message = f"{error}, or leave it out: data.bad_shards=skip"
                    self._failures[number] = message
                    raise UserError(message) from error
                self._files[number] = file
            return self._files[number]


def open_checked(folder: Path, shard: dict[str, Any], url: str = "") -> int:
    """File descriptor of a shard whose size and sha256 are those of the manifest; UserError."""
    path = folder / shard["name"]
    if url and not path.exists():
        fetch(folder, url, shard["name"], shard)
    try:
        file = os.open(path, os.O_RDONLY)
        with open(file, "rb", closefd=False) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"shard {path} cannot be read: {error.strerror}") from error
    size = os.fstat(file).st_size
    if (size, digest) != (shard["num_bytes"], shard["sha256"]):
        os.close(file)
        raise UserError(
            f"shard {path} is damaged: {size} bytes, sha256 {digest[:12]}…; its manifest says "
            f"{shard['num_bytes']} bytes, {shard['sha256'][:12]}…. Write the shards again"
            + (" or delete this one, to fetch it again" if url else "")
        )
    ends = [sum(place) for sample in shard["samples"] for place in sample["members"].values()]
    if max(ends, default=0) > size:
        os.close(file)
        raise UserError(f"shard {path} has {size} bytes, but its last member ends at {max(ends)}")
    return file


def find_bad_shards(
    config: DataConfig, splits: Iterable[str], rank: int, world_size: int
) -> set[str]:
    """Names of shards that cannot be fetched or are not those of the manifest, among this rank's
    share of all; says why on stderr. Reads each shard once, with a progress bar on rank 0.

    UserError if the manifest or one of the splits is missing.
    """
    names = set()
    every = [shard for split in splits for shard in open_split(config, split).shards]
    mine = every[rank::world_size]
    for shard in tqdm(mine, "check shards", unit="shard", leave=False, disable=rank > 0):
        try:
            os.close(open_checked(config.shards, shard, config.url))
        except UserError as error:
            tqdm.write(f"left out: {error}", file=sys.stderr)
            names.add(shard["name"])
    return names


def open_split(config: DataConfig, split: str, left_out: Collection[str] = ()) -> ShardFolder:
    """The split that a run reads; UserError if its size is not the one of the settings."""
    fetch_manifest(config)
    folder = ShardFolder(config.shards, split, config.url, left_out)
    size = f"{folder.manifest['height']}x{folder.manifest['width']}"
    if size != config.size:
        raise UserError(
            f"data.size={config.size}, but the shards in {config.shards} are {size}: "
            f"write data.size={size}, or give another folder as data.shards"
        )
    return folder
