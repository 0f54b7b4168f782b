"""Pictures of what an evaluation saw: one file each, and a sheet of them to look at."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from maskrestore.files import write_atomically

CAPTIONS = {
    "input": "input mask",
    "restored": "restored mask",
    "synthesized": "synthesised image",
    "true_mask": "true mask",
    "real": "real image",
}
"""Kinds of pictures, {key}_{kind}.png, in the order of a contact sheet, and what to call them."""


class Album:
    """A folder of pictures {key}_{kind}.png of the first `num_samples` samples."""

    def __init__(self, folder: Path, num_samples: int) -> None:
        self._folder = folder
        self._num_left = num_samples
        self._written: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, keys: Sequence[str], pictures: dict[str, Tensor]) -> None:
        """Draw samples until there are enough. pictures: {kind: uint8 [B,3,H,W]}."""
        keys = keys[: self._num_left]
        self._num_left -= len(keys)
        for number, key in enumerate(keys):
            for kind, images in pictures.items():
                path = self._folder / f"{key}_{kind}.png"
                image = images[number].permute(1, 2, 0).cpu().contiguous().numpy()
                write_atomically(path, _png(Image.fromarray(image)))
                self._written.add(path)

    def close(self) -> None:
        """Delete what an earlier evaluation drew of other samples."""
        for path in _pictures(self._folder).values():
            if path not in self._written:
                path.unlink()


def contact_sheet(pictures: Path, path: Path) -> None:
    """One PNG of a folder's pictures, a row per sample, to look at; no file if there are none."""
    found = _pictures(pictures)
    keys = sorted({key for key, _ in found})
    kinds = [kind for kind in CAPTIONS if any((key, kind) in found for key in keys)]
    if not keys:
        return
    with Image.open(next(iter(found.values()))) as first:
        width, height = first.size
    gap, text = 6, 18
    font = ImageFont.load_default(size=13)
    size = (gap + len(kinds) * (width + gap), text + gap + len(keys) * (height + text + gap))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, kind in enumerate(kinds):
        x = gap + column * (width + gap)
        draw.text((x, gap // 2), CAPTIONS[kind], "black", font)
        for row, key in enumerate(keys):
            y = text + gap + row * (height + text + gap)
            if column == 0:
                draw.text((x, y + height), key, "gray", font)
            if (key, kind) in found:
                with Image.open(found[key, kind]) as picture:
                    sheet.paste(picture, (x, y))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _png(sheet))


def _pictures(folder: Path) -> dict[tuple[str, str], Path]:
    """(key, kind) -> file."""
    return {
        (path.name.removesuffix(f"_{kind}.png"), kind): path
        for kind in CAPTIONS
        for path in sorted(folder.glob(f"*_{kind}.png"))
    }


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
