"""A folder of shards: its samples by number, checked when a shard is opened."""

import errno
import hashlib
import os
import resource
import sys
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maskrestore.config.data import DataConfig
from maskrestore.data.fetch import fetch, fetch_manifest
from maskrestore.data.manifest import MANIFEST, labels_of, read_manifest
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
        self._files: OrderedDict[int, _OpenShard] = OrderedDict()  # last used, last
        self._checked: dict[int, tuple[int, ...]] = {}
        self._failures: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Sample:
        number, key, members = self._index[index]
        try:
            with self._opened(number) as file:
                parts = {name: os.pread(file, size, at) for name, (at, size) in members.items()}
            return decode(key, parts)
        except (OSError, ValueError) as error:
            path = self.folder / self.shards[number]["name"]
            raise UserError(f"shard {path} cannot be read: {error}") from error

    def close(self) -> None:
        """Close the shard files."""
        for shard in self._files.values():
            os.close(shard.file)
        self._files.clear()

    @contextmanager
    def _opened(self, number: int) -> Iterator[int]:
        """File descriptor of a shard, which stays open meanwhile, and afterwards while fewer than
        most_open others are."""
        with self._lock:
            if number in self._failures:  # other threads have waited for the same shard
                raise UserError(self._failures[number])
            if number not in self._files:
                self._close_unused(most_open() - 1)
                self._files[number] = _OpenShard(self._open(number))
            shard = self._files[number]
            self._files.move_to_end(number)
            shard.num_readers += 1
        try:
            yield shard.file
        finally:
            with self._lock:
                shard.num_readers -= 1

    def _close_unused(self, num_kept: int) -> None:
        """Close those that nobody has used for longest, until so few are open."""
        for number, shard in list(self._files.items()):
            if len(self._files) <= num_kept:
                break
            if not shard.num_readers:
                os.close(shard.file)
                del self._files[number]

    def _open(self, number: int) -> int:
        """Open a shard, and check it unless it is the file that was checked before."""
        shard = self.shards[number]
        if number in self._checked:
            with suppress(UserError):  # it is gone: open_checked fetches it, or says so
                file = _open_for_reading(self.folder / shard["name"])
                if _identity(file) == self._checked[number]:
                    return file
                os.close(file)
        try:
            file = open_checked(self.folder, shard, self.url)
        except UserError as error:
            message = f"{error}, or leave it out: data.bad_shards=skip"
            self._failures[number] = message
            raise UserError(message) from error
        self._checked[number] = _identity(file)
        return file


@dataclass
class _OpenShard:
    file: int
    num_readers: int = 0


def most_open() -> int:
    """Shards of one folder that are open at a time: a quarter of the files that this process may
    open, since it reads two folders, and libraries have files and connections of their own."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 4096 if soft == resource.RLIM_INFINITY else max(1, min(soft // 4, 4096))


def _identity(file: int) -> tuple[int, ...]:
    facts = os.fstat(file)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _open_for_reading(path: Path) -> int:
    """Raises UserError if it cannot be opened."""
    try:
        return os.open(path, os.O_RDONLY)
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.EMFILE:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            reason = f"this process has all {soft} files open that it may; ulimit -n {hard}"
        raise UserError(f"shard {path} cannot be read: {reason}") from error


def open_checked(folder: Path, shard: dict[str, Any], url: str = "") -> int:
    """File descriptor of a shard whose size and sha256 are those of the manifest; UserError."""
    path = folder / shard["name"]
    if url and not path.exists():
        fetch(folder, url, shard["name"], shard)
    file = _open_for_reading(path)
    try:
        with open(file, "rb", closefd=False) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        os.close(file)
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
    """The split that a run reads; UserError if its size or labels are not those of the settings."""
    fetch_manifest(config)
    folder = ShardFolder(config.shards, split, config.url, left_out)
    size = f"{folder.manifest['height']}x{folder.manifest['width']}"
    if size != config.size:
        raise UserError(
            f"data.size={config.size}, but the shards in {config.shards} are {size}: "
            f"write data.size={size}, or give another folder as data.shards"
        )
    labels = labels_of(folder.manifest, config.shards / MANIFEST)
    if labels.sha256 != config.labels.sha256:
        raise UserError(
            f"data.labels={config.labels}, but the masks of the shards in {config.shards} are of "
            f"{labels.name} ({labels.num_classes} classes): write data.labels=the same NAME or "
            "FILE, or give another folder as data.shards"
        )
    return folder
