"""manifest.json: what a folder of shards holds, written last. One reader for all who need it."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maskrestore.config.labels import LabelSet, load_labels, read_labels
from maskrestore.utils.errors import UserError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_TYPES = {
    "schema_version": int,
    "source": str,
    "height": int,
    "width": int,
    "num_classes": int,
    "coarse": str,
    "notes": list,
    "settings": dict,
    "splits": dict,
}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a shard folder, with every key and type that its readers rely on.

    Raises UserError if the folder is missing or unfinished, or the manifest is none of this schema.
    """
    path = folder / MANIFEST
    if not folder.is_dir():
        raise UserError(f"no shards at {folder}; write them with `python shards/write.py`")
    if not path.is_file():
        raise UserError(
            f"{folder} has no {MANIFEST}, so it is unfinished: run the same "
            "`python shards/write.py` command again to complete it"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        version = manifest["schema_version"]
        if version != SCHEMA_VERSION:
            raise UserError(
                f"{path} has schema version {version}; this program reads {SCHEMA_VERSION}"
            )
        wrong = [key for key, kind in _TYPES.items() if type(manifest[key]) is not kind]
        for split in manifest["splits"].values():
            _ = split["class_pixels"]
            for shard in split["shards"]:
                _check_shard(shard)
            listed = sum(shard["num_samples"] for shard in split["shards"])
            if listed != split["num_samples"]:
                raise ValueError(f"num_samples {split['num_samples']}, its shards say {listed}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a shard manifest: {error!r}") from error
    if wrong:
        raise UserError(f"{path} is not a shard manifest: wrong type of {', '.join(wrong)}")
    labels = labels_of(manifest, path)
    if manifest["num_classes"] != labels.num_classes:
        raise UserError(
            f"{path} is of {manifest['num_classes']} classes; {labels.name} has "
            f"{labels.num_classes}"
        )
    return dict(manifest)


def labels_of(manifest: Mapping[str, Any], path: Path) -> LabelSet:
    """The label set of the masks. UserError, naming the manifest's path, if it is none."""
    if "labels" not in manifest:  # of before there were others
        return load_labels("cityscapes")
    try:
        return read_labels(manifest["labels"])
    except ValueError as error:
        raise UserError(f"{path}: its labels are no label set:\n{error}") from error


def _check_shard(shard: dict[str, Any]) -> None:
    """ValueError, KeyError or TypeError unless the entry is one that can be relied on.

    Names reach paths and, where shards are fetched, commands; keys name the pictures of samples; a
    manifest may come from outside.
    """
    name, sha256 = shard["name"], shard["sha256"]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name):
        raise ValueError(f"shard name {name!r} is no plain file name")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{name}: sha256 {sha256!r}")
    if len(shard["samples"]) != shard["num_samples"]:
        raise ValueError(
            f"{name}: lists {len(shard['samples'])} samples and says {shard['num_samples']}"
        )
    for sample in shard["samples"]:
        if not re.fullmatch(r"[^/\0.][^/\0]{0,199}", sample["key"]):
            raise ValueError(f"{name}: the key {sample['key']!r} is no plain file name")
        for member, (offset, size) in sample["members"].items():
            if not (type(offset) is type(size) is int and offset >= 0 and size >= 0):
                raise ValueError(f"{name}: {sample['key']}.{member} lies at {offset}, {size}")


def data_sha256(manifest: dict[str, Any]) -> str:
    """Hex sha256 of all shards' names and sha256: equal for equal data, wherever it lies."""
    names = [
        (split, shard["name"], shard["sha256"])
        for split, content in sorted(manifest["splits"].items())
        for shard in content["shards"]
    ]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()
