"""Write WebDataset shards of a data set; the same command again continues.

python shards/write.py source=cityscapes root=DIR out=DIR size=256x512 splits=train,val
python shards/write.py source=folder images=DIR masks=DIR labels=FILE.yaml out=DIR size=256x512
python shards/write.py source=streetscenes num_train=512 num_val=64 out=data/streetscenes

The same input gives the same bytes, whatever the number of workers; manifest.json comes last.
With labels=auto it writes none, but a label file that is proposed from the masks: OUT/labels.yaml;
with size=auto it says which sizes suit the pictures, and the memory that training at them takes.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import NonNegativeInt, PositiveInt

from maskrestore.config.cli import run_program
from maskrestore.config.data import PLACES, SourceConfig, SourceName
from maskrestore.config.settings import parse
from maskrestore.data.manifest import MANIFEST, read_manifest
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.files import write_atomically
from shards.sources import camvid, cityscapes, folder, streetscenes
from shards.sources.propose import propose, propose_size
from shards.sources.source import CITYSCAPES, Source, all_problems
from shards.workers import run_all
from shards.writer import NO_SPACE, RECORDS, plan, write_manifest, write_shard

SOURCES: dict[SourceName, Callable[[SourceConfig], Source]] = {
    "streetscenes": streetscenes.open_source,
    "cityscapes": cityscapes.open_source,
    "camvid": camvid.open_source,
    "folder": folder.open_source,
}
AUTO_LABELS, AUTO_SIZE = "labels=auto", "size=auto"
FOLDER_SETTINGS = {
    *("labels", "images", "masks", "coarse", "instances", "encoding", "val_share", "only_good")
}
"""Those that source=folder alone has."""


class WriteConfig(SourceConfig):
    """What to shard, and where to."""

    out: Path
    """Folder for the tars and their manifest.json; made if it is not there."""
    samples_per_shard: PositiveInt = 64
    """Largest number of samples in one tar; they are spread evenly."""
    workers: NonNegativeInt = 0
    """Processes that read and write; 0 = one per core."""


def write_shards(config: WriteConfig) -> Path:
    """Writes what is not written yet and returns the path of manifest.json.

    Raises ConfigError (settings, or a manifest for other settings) and UserError (bad input
    files, all of them listed: those whose names or headers tell it before anything is written,
    those that cannot be decoded or hold unknown ids at the end, without a manifest; a full disk).
    """
    if config.source != "folder" and config.labels != CITYSCAPES:
        raise ConfigError(
            f"labels={config.labels}: source={config.source} is read as the classes of Cityscapes; "
            "other labels are for source=folder images=DIR masks=DIR"
        )
    settings = _settings(config)
    path = config.out / MANIFEST
    if path.exists():
        _check_same(config.out, settings)
        print(f"{path}: already finished with these settings, nothing to do")
        return path
    source = SOURCES[config.source](config)
    _print_notes(source.notes)
    try:
        (config.out / RECORDS).mkdir(parents=True, exist_ok=True)
        shards = plan(source, settings, config.out, config.samples_per_shard)
        sizes = [len(shard.items) for shard in shards]
        records = run_all(write_shard, shards, sizes, config.workers, "writing", "sample")
        problems = [problem for record in records for problem in record.get("problems", ())]
        if problems:
            outcome = "no manifest was written; mend them and run the same command again"
            raise all_problems(config.root or config.images or config.out, problems, outcome)
        without = tuple(why for record in records for why in record["left_out"])
        _print_notes(without)
        source = replace(source, notes=source.notes + without)
        by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for shard, record in zip(shards, records, strict=True):
            by_split[shard.split].append(record)
        return write_manifest(config.out, source, settings, config.height_width, by_split)
    except OSError as error:
        remedy = "free some space and " if error.errno in NO_SPACE else ""
        raise UserError(
            f"{config.out}: cannot write there: {error}; {remedy}run the same command again, "
            "finished shards are kept"
        ) from error
    finally:
        # Workers that were stopped could not clean up.
        for partial in config.out.rglob(".*.partial"):
            partial.unlink(missing_ok=True)


def main(words: Sequence[str]) -> None:
    """Parse, write, and say where the manifest is; or propose labels or a size (=auto)."""
    asked = [word for word in (AUTO_LABELS, AUTO_SIZE) if word in words]
    config = parse(WriteConfig, [word for word in words if word not in asked])
    if AUTO_LABELS in asked:
        print(propose_labels(config))
    elif AUTO_SIZE in asked:
        if config.source != "folder" or config.images is None:
            raise ConfigError(f"{AUTO_SIZE} is for source=folder with images=DIR")
        print(propose_size(config.images, config.labels))
    else:
        print(write_shards(config))


def propose_labels(config: WriteConfig) -> str:
    """Writes OUT/labels.yaml, and returns what to do with it. ConfigError or UserError as there."""
    if config.source != "folder" or config.masks is None:
        raise ConfigError(f"{AUTO_LABELS} is for source=folder with masks=DIR")
    path = config.out / "labels.yaml"
    if path.exists():
        raise ConfigError(f"{path} is there already: write labels={path}, or delete it")
    text = propose(config.masks)
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.encode())
    return f"{text}\n{path}: name its classes, then write labels={path}"


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _settings(config: WriteConfig) -> dict[str, Any]:
    """The settings that the content of the folder depends on."""
    ignored = {"out", "workers"}
    if config.source != "folder":
        ignored |= FOLDER_SETTINGS
    ignored |= {"root"} if config.source == "streetscenes" else {"num_train", "num_val"}
    settings = config.model_dump(mode="json", exclude=ignored)
    for name in PLACES & settings.keys():
        path = getattr(config, name)
        settings[name] = None if path is None else str(path.resolve())
    return settings


def _check_same(out: Path, settings: dict[str, Any]) -> None:
    try:
        written = read_manifest(out)["settings"]
    except UserError as error:
        raise UserError(f"{error}; delete it or choose another out=") from error
    names = sorted(written.keys() | settings.keys())
    differing = [
        f"  {name}: {written.get(name)} there, {settings.get(name)} now"
        for name in names
        if written.get(name) != settings.get(name)
    ]
    if differing:
        lines = "\n".join(differing)
        raise ConfigError(
            f"{out / MANIFEST} was written with other settings:\n{lines}\n"
            "choose another out=, or delete that folder"
        )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, WriteConfig))
