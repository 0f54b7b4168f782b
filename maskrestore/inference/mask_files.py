"""Which masks there are to restore, their pictures, and what the restored files are called."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from maskrestore.config.inference import Encoding
from maskrestore.config.labels import LabelSet
from maskrestore.data.pictures import Mask
from maskrestore.inference.encodings import decode, detect
from maskrestore.utils.errors import UserError
from maskrestore.utils.file_names import KNOWN_BLACK, PICTURES, is_hidden, plain

COARSE = "_gtCoarse_labelIds.png"
"""How Cityscapes names its coarse masks; {split}/{city}/{city}_{sequence}_{frame} stands before."""
NUM_LOOKED_AT = 32
"""Masks by which encoding=auto decides."""


@dataclass(frozen=True)
class MaskFile:
    """A mask and its picture, or where it would be. name: path relative to the input folder.
    restored: relative path in the output folder of the restored mask; base: the beginning of the
    others'."""

    path: Path
    name: str
    restored: str
    base: str
    image: Path | None

    def outputs(self, augment: bool) -> dict[str, str]:
        """Kind of file -> its path relative to the output folder."""
        kinds = ["confidence", "overlay", *(["synthesized", "synthesized_mask"] if augment else ())]
        return {"restored": self.restored} | {kind: f"{self.base}_{kind}.png" for kind in kinds}

    def stamp(self) -> list[int]:
        """Size and time of change of the mask and its picture: it is restored again if they
        change."""
        stamp: list[int] = []
        for path in (self.path, self.image):
            try:
                facts = path.stat() if path is not None else None
            except OSError:
                facts = None
            stamp += (facts.st_size, facts.st_mtime_ns) if facts is not None else (0, 0)
        return stamp


def find_masks(source: Path, images: Path | None) -> tuple[list[MaskFile], list[str]]:
    """The masks of input=, sorted by name, and notes on what is left out.

    Where there are coarse masks of Cityscapes by name, the other PNGs beneath are passed over (its
    instanceIds and colours are no masks to restore). Raises UserError if there is none.
    """
    if source.is_file():
        root, paths = source.parent, [source]
    elif source.is_dir():
        root, unreadable = source, list[str]()
        paths = sorted(_pngs(source, frozenset(), unreadable))
        _check_readable("input", source, unreadable)
    else:
        raise UserError(f"input={source}: there is no such file or folder")
    if not paths:
        raise UserError(f"input={source}: there are no PNG files (*.png) in this folder")
    if images is not None and not images.exists():
        raise UserError(f"images={images}: there is no such file or folder")
    notes = []
    coarse = [path for path in paths if plain(path.name).endswith(COARSE)]
    if coarse:
        known_black = [path for path in coarse if plain(path.name) == KNOWN_BLACK + COARSE]
        notes += [f"left out: {path.relative_to(root)}, a black picture" for path in known_black]
        num_others = len(paths) - len(coarse)
        if num_others:
            notes.append(f"passed over: {num_others} PNG files that are not named *{COARSE}")
        paths = [path for path in coarse if path not in known_black]
        if not paths:
            raise UserError(f"input={source}: nothing is left to restore\n" + "\n".join(notes))
    if images is not None and images.is_file() and len(paths) > 1:
        raise UserError(
            f"images={images} is one picture, but input={source} holds {len(paths)} masks: give "
            "the folder of their pictures"
        )
    pictures = _Pictures(images)
    masks = [_mask_file(root, path, pictures) for path in paths]
    if images is not None:
        _check_readable("images", images, pictures.unreadable)
    first: dict[str, str] = {}
    for mask in masks:  # a.PNG beside a.png
        other = first.setdefault(mask.restored, mask.name)
        if other != mask.name:
            raise UserError(
                f"input={source}: {other} and {mask.name} would both become {mask.restored}: "
                "rename one of them"
            )
    return masks, notes


def _pngs(folder: Path, above: frozenset[Path], unreadable: list[str]) -> Iterator[Path]:
    """PNGs by name beneath a folder, in linked folders too, and links to nothing, which are to be
    told of when they are read. above: the folder's parents, since links can lead in a circle."""
    real = folder.resolve()
    if real in above:
        return
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        unreadable.append(f"{folder}: {error.strerror}")
        return
    for entry in entries:
        if is_hidden(entry.name):
            continue
        # The listing itself tells what an entry is, where each question may go over a network.
        path, is_link = folder / entry.name, entry.is_symlink()
        if entry.is_dir(follow_symlinks=False) or (is_link and os.path.isdir(path)):
            yield from _pngs(path, above | {real}, unreadable)
        elif plain(entry.name).endswith(".png") and (is_link or entry.is_file()):
            yield path


def _check_readable(setting: str, folder: Path, unreadable: Sequence[str]) -> None:
    if unreadable:
        shown = "\n  ".join(unreadable)
        raise UserError(f"{setting}={folder}: folders that cannot be read:\n  {shown}")


def _mask_file(root: Path, path: Path, pictures: "_Pictures") -> MaskFile:
    relative = PurePosixPath(path.relative_to(root).as_posix())
    if not plain(path.name).endswith(COARSE):
        base = str(relative.with_suffix(""))
        picture = pictures.of([relative.parent], relative.stem)
        return MaskFile(path, str(relative), f"{base}_restored.png", base, picture)
    key = path.name[: -len(COARSE)]
    parts = relative.parent.parts
    folder = PurePosixPath(*("gtRestored" if part == "gtCoarse" else part for part in parts))
    base = str(folder / f"{key}_gtRestored")
    beneath = PurePosixPath(*(part for part in parts if part != "gtCoarse"))
    picture = pictures.of(["leftImg8bit" / beneath, beneath], f"{key}_leftImg8bit")
    return MaskFile(path, str(relative), f"{base}_labelIds.png", base, picture)


class _Pictures:
    """The masks' pictures beneath images=, by their plain names. A folder is listed once; those
    that cannot be are in `unreadable`."""

    def __init__(self, images: Path | None) -> None:
        self._images, self.unreadable = images, list[str]()
        self._is_one = images is not None and images.is_file()
        self._listed: dict[Path, dict[str, Path]] = {}

    def of(self, folders: Sequence[PurePosixPath], stem: str) -> Path | None:
        """The picture of a mask, or where it would be; None without pictures."""
        if self._images is None or self._is_one:
            return self._images
        for folder in folders:
            place: Path | None = self._images
            for part in folder.parts:
                place = self._find(place, part) if place is not None else None
            for name in (stem + suffix for suffix in PICTURES):
                picture = self._find(place, name) if place is not None else None
                if picture is not None and os.path.isfile(picture):
                    return picture
        return self._images / folders[0] / (stem + PICTURES[0])

    def _find(self, folder: Path, name: str) -> Path | None:
        if folder not in self._listed:
            self._listed[folder] = self._list(folder)
        entries = self._listed[folder]
        return entries.get(name) or entries.get(plain(name))

    def _list(self, folder: Path) -> dict[str, Path]:
        """What is in a folder, by names as they are and, where these differ, by plain ones."""
        try:
            names = sorted(os.listdir(folder))
        except NotADirectoryError:
            names = []
        except OSError as error:
            self.unreadable.append(f"{folder}: {error.strerror}")
            names = []
        return {plain(name): folder / name for name in names} | {
            name: folder / name for name in names
        }


def read_mask(path: Path, labels: LabelSet) -> Mask:
    """A mask's PNG, not yet as class numbers. UserError names the file and what is wrong."""
    try:
        return decode(path.read_bytes(), labels)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def detect_encoding(masks: Sequence[MaskFile], labels: LabelSet) -> Encoding:
    """The encoding of all masks, by a look at some of them; unreadable ones are left for later.

    UserError if none can be read, or if they leave it open.
    """
    looks, problems = [], []
    step = max(1, len(masks) // NUM_LOOKED_AT)
    for mask in masks[::step][:NUM_LOOKED_AT]:
        try:
            looks.append((mask.name, read_mask(mask.path, labels)))
        except UserError as error:
            problems.append(str(error))
    if not looks:
        raise UserError("none of the masks looked at can be read:\n  " + "\n  ".join(problems))
    try:
        return detect(looks, labels)
    except ValueError as error:
        raise UserError(f"encoding=auto: {error}") from error


def check_apart(output: Path, source: Path) -> None:
    """UserError if output= lies in the input folder: the next start would restore its files too."""
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"output={output} lies in input={source}, whose masks would get mixed with restored "
            "ones: give a folder outside of it"
        )
