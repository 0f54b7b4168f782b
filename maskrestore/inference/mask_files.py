"""Which masks there are to restore, their pictures, and what the restored files are called."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from maskrestore.config.inference import Encoding
from maskrestore.data.labels import KNOWN_BLACK
from maskrestore.inference.encodings import Picture, decode_picture, detect
from maskrestore.utils.errors import UserError

COARSE = "_gtCoarse_labelIds.png"
"""How Cityscapes names its coarse masks; {split}/{city}/{city}_{sequence}_{frame} stands before."""
NUM_LOOKED_AT = 32
"""Masks by which encoding=auto decides."""


@dataclass(frozen=True)
class MaskFile:
    """A mask and where its picture would be. name: path relative to the input folder. restored:
    relative path in the output folder of the restored mask, and the beginning of the others'."""

    path: Path
    name: str
    restored: str
    base: str
    images: tuple[Path, ...]

    def outputs(self, augment: bool) -> dict[str, str]:
        """Kind of file -> its path relative to the output folder."""
        kinds = ["confidence", "overlay", *(["synthesized", "synthesized_mask"] if augment else ())]
        return {"restored": self.restored} | {kind: f"{self.base}_{kind}.png" for kind in kinds}

    @property
    def image(self) -> Path | None:
        """The mask's picture, if there is one."""
        return next((path for path in self.images if path.is_file()), None)

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
        if unreadable:
            shown = "\n  ".join(unreadable)
            raise UserError(f"input={source}: folders that cannot be read:\n  {shown}")
    else:
        raise UserError(f"input={source}: there is no such file or folder")
    if not paths:
        raise UserError(f"input={source}: there are no PNG files (*.png) in this folder")
    if images is not None and not images.exists():
        raise UserError(f"images={images}: there is no such file or folder")
    notes = []
    coarse = [path for path in paths if path.name.endswith(COARSE)]
    if coarse:
        known_black = [path for path in coarse if path.name == KNOWN_BLACK + COARSE]
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
    masks = [_mask_file(root, path, images) for path in paths]
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
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as error:
        unreadable.append(f"{folder}: {error.strerror}")
        return
    for name in names:
        path = folder / name
        if os.path.isdir(path):  # not Path.is_dir, which some broken links make fail
            yield from _pngs(path, above | {real}, unreadable)
        # Some systems leave hidden files beside others, named like them (._a.png).
        elif name[0] == "." or not name.lower().endswith(".png"):
            continue
        elif path.is_symlink() or path.is_file():
            yield path


def _mask_file(root: Path, path: Path, images: Path | None) -> MaskFile:
    relative = PurePosixPath(path.relative_to(root).as_posix())
    if not path.name.endswith(COARSE):
        base = str(relative.with_suffix(""))
        pictures = _pictures(images, relative.parent, relative.stem)
        return MaskFile(path, str(relative), f"{base}_restored.png", base, pictures)
    key = path.name.removesuffix(COARSE)
    parts = relative.parent.parts
    folder = PurePosixPath(*("gtRestored" if part == "gtCoarse" else part for part in parts))
    base = str(folder / f"{key}_gtRestored")
    beneath = PurePosixPath(*(part for part in parts if part != "gtCoarse"))
    pictures = tuple(
        picture
        for place in (PurePosixPath("leftImg8bit") / beneath, beneath)
        for picture in _pictures(images, place, f"{key}_leftImg8bit")
    )
    return MaskFile(path, str(relative), f"{base}_labelIds.png", base, pictures)


def _pictures(images: Path | None, folder: PurePosixPath, stem: str) -> tuple[Path, ...]:
    if images is None or images.is_file():
        return () if images is None else (images,)
    return tuple(images / folder / f"{stem}{end}" for end in (".png", ".jpg", ".jpeg"))


def read_picture(path: Path) -> Picture:
    """A mask's PNG, not yet as ids. UserError names the file and what is wrong with it."""
    try:
        return decode_picture(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def detect_encoding(masks: Sequence[MaskFile]) -> Encoding:
    """The encoding of all masks, by a look at some of them; unreadable ones are left for later.

    UserError if none can be read, or if they leave it open.
    """
    looks, problems = [], []
    step = max(1, len(masks) // NUM_LOOKED_AT)
    for mask in masks[::step][:NUM_LOOKED_AT]:
        try:
            looks.append((mask.name, read_picture(mask.path)))
        except UserError as error:
            problems.append(str(error))
    if not looks:
        raise UserError("none of the masks looked at can be read:\n  " + "\n  ".join(problems))
    try:
        return detect(looks)
    except ValueError as error:
        raise UserError(f"encoding=auto: {error}") from error


def check_apart(output: Path, source: Path) -> None:
    """UserError if output= lies in the input folder: the next start would restore its files too."""
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise UserError(
            f"output={output} lies in input={source}, whose masks would get mixed with restored "
            "ones: give a folder outside of it"
        )
