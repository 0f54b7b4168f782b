"""The files of a shard folder: WebDataset tars, a record of each, and manifest.json last.

A shard is finished when its record stands beside it; a folder, when it has a manifest. The tars
are a pure function of the samples: fixed order, times and owners.
"""

import errno
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from maskrestore.config.labels import LabelSet
from maskrestore.data.manifest import MANIFEST, SCHEMA_VERSION
from maskrestore.data.sample import ENCODING, Sample, encode
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import file_sha256, name_beside, sync, write_atomically
from shards.sources.source import Item, Source

RECORDS = ".records"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Shard:
    """One tar to be written: its split, path and items, and what its content depends on."""

    split: str
    path: Path
    items: tuple[Item, ...]
    read: Callable[[Item], Sample | str]
    settings: dict[str, Any]
    labels: LabelSet

    @property
    def record_path(self) -> Path:
        """Where the record of the finished shard stands."""
        return self.path.parent / RECORDS / f"{self.path.name}.json"

    def fingerprint(self) -> str:
        """Hash of the settings, of how samples are encoded, and of path, size and modification time
        of every input file."""
        inputs = []
        for item in self.items:
            stats = [(path, path.stat()) for path in item.files]
            files = [[str(path), stat.st_size, stat.st_mtime_ns] for path, stat in stats]
            inputs.append([item.key, files])
        content = [SCHEMA_VERSION, ENCODING, self.settings, inputs]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def plan(source: Source, settings: dict[str, Any], out: Path, per_shard: int) -> list[Shard]:
    """Shards of all splits; sizes differ by one at most, and neighbours go to different shards."""
    content = {**settings, "coarse": source.coarse}
    shards = []
    for split, items in source.splits.items():
        ordered = sorted(items, key=lambda item: item.key)
        count = -(-len(ordered) // per_shard)
        for number in range(count):
            path = out / f"{split}-{number:06}.tar"
            part = tuple(ordered[number::count])
            shards.append(Shard(split, path, part, source.read, content, source.labels))
    return shards


def write_shard(shard: Shard) -> dict[str, Any]:
    """Writes the tar unless it is finished, and returns its record.

    Record: {"fingerprint", "class_pixels", "left_out": why some are, "shard": the
    manifest's entry}, or only {"problems": lines} if input files are bad. Raises UserError if the
    disk is full. If it was not written whole, nothing new stands under the final name.
    """
    fingerprint = shard.fingerprint()
    record = _finished(shard, fingerprint)
    if record is not None:
        return record
    partial = name_beside(shard.path)
    try:
        with partial.open("wb") as file:
            samples, kept, problems = _write_tar(shard, file)
            if problems:
                return {"problems": problems}
            sync(file)
        entry = {
            "name": shard.path.name,
            "num_samples": len(samples),
            "num_bytes": partial.stat().st_size,
            "sha256": file_sha256(partial),
            "samples": samples,
        }
        os.replace(partial, shard.path)
        record = {"fingerprint": fingerprint, **kept, "shard": entry}
        _write_json(shard.record_path, record)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise UserError(
                f"{shard.path}: no space left to write it ({error.strerror}); free some and run "
                "the same command again, finished shards are kept"
            ) from error
        raise
    finally:
        partial.unlink(missing_ok=True)
    return record


def _write_tar(
    shard: Shard, file: IO[bytes]
) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """Writes the samples; returns their places, what the record keeps of them, and problems.

    After the first problem the rest is only read, to find them all.
    """
    num_classes = shard.labels.num_classes
    class_pixels = np.zeros(num_classes, np.int64)
    samples: list[dict[str, Any]] = []
    left_out: list[str] = []
    problems: list[str] = []
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for item in shard.items:
            try:
                sample = shard.read(item)
            except UserError as error:
                problems += str(error).splitlines()
                continue
            if isinstance(sample, str):
                left_out.append(sample)
            elif not problems:
                class_pixels += np.bincount(sample.fine.ravel(), minlength=num_classes)
                members = {}
                for name, data in encode(sample).items():
                    info = tarfile.TarInfo(f"{sample.key}.{name}")
                    info.size, info.mode = len(data), 0o644
                    # A ustar header is one block; the data follows it.
                    members[name] = [tar.offset + tarfile.BLOCKSIZE, len(data)]
                    tar.addfile(info, io.BytesIO(data))
                samples.append({"key": sample.key, "members": members})
    if not samples and not problems:
        problems.append(f"{shard.path.name}: all its pictures are left out")
    return samples, {"class_pixels": class_pixels.tolist(), "left_out": left_out}, problems


def write_manifest(
    out: Path,
    source: Source,
    settings: dict[str, Any],
    height_width: tuple[int, int],
    records: dict[str, list[dict[str, Any]]],
) -> Path:
    """Writes manifest.json of the finished shards, {split: their records}, and returns its path.

    Tars of an earlier, unfinished run with other settings are removed first: whoever reads
    train-*.tar must get exactly what the manifest lists.
    """
    listed = {record["shard"]["name"] for split in records.values() for record in split}
    for path in (out / RECORDS).glob("*.tar.json"):
        if path.stem not in listed:
            (out / path.stem).unlink(missing_ok=True)
            path.unlink()
    splits = {
        split: {
            "num_samples": sum(record["shard"]["num_samples"] for record in of_split),
            "class_pixels": np.sum(
                [record["class_pixels"] for record in of_split], axis=0
            ).tolist(),
            "shards": [record["shard"] for record in of_split],
        }
        for split, of_split in records.items()
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": settings["source"],
        "height": height_width[0],
        "width": height_width[1],
        "num_classes": source.labels.num_classes,
        "labels": source.labels.model_dump(mode="json", exclude_defaults=True),
        "coarse": source.coarse,
        "notes": list(source.notes),
        "settings": settings,
        "splits": splits,
    }
    _write_json(out / MANIFEST, manifest)
    return out / MANIFEST


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=1).encode())


def _finished(shard: Shard, fingerprint: str) -> dict[str, Any] | None:
    """The record of a shard that needs no writing: same inputs, and the tar is what it was."""
    try:
        record: dict[str, Any] = json.loads(shard.record_path.read_text(encoding="utf-8"))
        same = record["fingerprint"] == fingerprint
        return record if same and file_sha256(shard.path) == record["shard"]["sha256"] else None
    except (OSError, ValueError, KeyError):
        return None
