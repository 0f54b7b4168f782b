"""Re-read a shard folder and say everything that is wrong with it: python shards/verify.py DIR

Uses the standard library's tarfile and knows nothing of the loader, so that the two check each
other. Exit status 0 if all is sound, 2 if not.
"""

import hashlib
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from maskrestore.config.cli import run_program
from maskrestore.config.labels import LabelSet
from maskrestore.data.manifest import MANIFEST, labels_of, read_manifest
from maskrestore.data.sample import MEMBERS, Sample, decode
from maskrestore.utils.errors import UserError
from maskrestore.utils.file_names import as_it_lies, is_hidden
from shards.sources.source import CITYSCAPES, FIRST_INSTANCE, unknown_ids


def verify(folder: Path) -> tuple[list[str], list[str]]:
    """(problems, one summary line per split). Raises UserError without a readable manifest."""
    manifest = read_manifest(folder)
    labels = labels_of(manifest, folder / MANIFEST)
    problems, summaries = [], []
    listed = set()
    for split, content in manifest["splits"].items():
        class_pixels = np.zeros(labels.num_classes, np.int64)
        keys: set[str] = set()
        num_bytes = 0
        for shard in tqdm(content["shards"], desc=split, unit="shard"):
            listed.add(shard["name"])
            num_bytes += shard["num_bytes"]
            of_shard = _shard(folder, shard, manifest, keys, class_pixels)
            problems += [f"{shard['name']}: {problem}" for problem in of_shard]
        count = sum(shard["num_samples"] for shard in content["shards"])
        if content["class_pixels"] != class_pixels.tolist():
            problems.append(
                f"{split}: class_pixels of the manifest are not those of the fine masks"
            )
        summaries.append(
            f"{split}: {count} samples in {len(content['shards'])} shards, {num_bytes:,} bytes, "
            f"{np.count_nonzero(class_pixels)} classes"
        )
    for path in sorted(folder.glob("*.tar")):
        if path.name not in listed and not is_hidden(path.name):
            problems.append(f"{path.name}: is not in the manifest")
    return problems, summaries


def main(arguments: Sequence[str]) -> int:
    """The program; returns its exit status. Raises UserError without a readable manifest."""
    if len(arguments) != 1:
        raise UserError("give one folder: python shards/verify.py DIR")
    problems, summaries = verify(as_it_lies(Path(arguments[0])))
    print("\n".join(summaries))
    if problems:
        print(f"{arguments[0]}: {len(problems)} problems", file=sys.stderr)
        print("\n".join(f"  {problem}" for problem in problems), file=sys.stderr)
        return 2
    print("sound")
    return 0


def _shard(
    folder: Path,
    shard: dict[str, Any],
    manifest: dict[str, Any],
    keys: set[str],
    class_pixels: NDArray[np.int64],
) -> Iterator[str]:
    """What is wrong with one tar; adds its keys and its histogram to those of the split."""
    labels = labels_of(manifest, folder / MANIFEST)
    try:
        data = (folder / shard["name"]).read_bytes()
    except OSError as error:
        yield f"cannot be read: {error.strerror}"
        return
    if len(data) != shard["num_bytes"]:
        yield f"{len(data)} bytes, the manifest says {shard['num_bytes']}"
    digest = hashlib.sha256(data).hexdigest()
    if digest != shard["sha256"]:
        yield f"sha256 {digest[:12]}…, the manifest says {shard['sha256'][:12]}…"
    names: list[str] = []
    members: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(folder / shard["name"]) as tar:
            for info in tar:
                names.append(info.name)
                members[info.name] = (info.offset_data, info.size)
    except tarfile.TarError as error:
        yield f"is no whole tar: {error}"
    # Order, adjacency and completeness at once: nothing may stand between the members of a key.
    expected = [f"{sample['key']}.{name}" for sample in shard["samples"] for name in MEMBERS]
    if names != expected:
        missing, extra = set(expected) - set(names), set(names) - set(expected)
        parts = [f"without {name}" for name in sorted(missing)]
        parts += [f"with unlisted {name}" for name in sorted(extra)]
        yield ", ".join(parts or ["its members are not in the order of the manifest"])
    for sample in shard["samples"]:
        key = sample["key"]
        if key in keys:
            yield f"{key}: the key occurs twice in its split"
        keys.add(key)
        for name in MEMBERS:
            listed = tuple(sample["members"].get(name, ()))
            there = members.get(f"{key}.{name}")
            if there is not None and listed != there:
                yield f"{key}.{name}: offset and size {listed} in the manifest, {there} in the tar"
        parts_of_key = {
            name: data[start : start + size]
            for name in MEMBERS
            for start, size in [members.get(f"{key}.{name}", (0, 0))]
        }
        try:
            decoded = decode(key, parts_of_key)
        except ValueError as error:
            yield str(error)
            continue
        class_pixels += np.bincount(decoded.fine.ravel(), minlength=256)[: len(class_pixels)]
        yield from _sample(decoded, manifest["height"], manifest["width"], labels)


def _sample(sample: Sample, height: int, width: int, labels: LabelSet) -> Iterator[str]:
    if sample.image.shape != (height, width, 3) or sample.image.dtype != np.uint8:
        yield f"{sample.key}: the picture is {sample.image.shape}, expected {(height, width, 3)}"
    for name, array, dtype in (
        ("fine", sample.fine, np.uint8),
        ("coarse", sample.coarse, np.uint8),
        ("instance", sample.instance, np.uint16),
    ):
        if array.ndim != 2 or array.dtype != dtype:
            yield f"{sample.key}.{name}: {array.ndim} axes of {array.dtype}, expected 2 of {dtype}"
            continue
        wrong = _unknown(array, labels)
        if wrong:
            yield f"{sample.key}.{name}: ids {', '.join(map(str, wrong[:8]))} do not exist"


def _unknown(array: NDArray[Any], labels: LabelSet) -> list[int]:
    if labels == CITYSCAPES:
        return unknown_ids(array)
    values: list[int] = np.unique(array).tolist()
    return [value for value in values if labels.num_classes <= value < FIRST_INSTANCE]


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, schema=None))
