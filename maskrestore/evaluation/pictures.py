"""Pictures of what an evaluation saw: one file each, and a sheet of them to look at."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from maskrestore.config.labels import LabelSet
from maskrestore.data.segmap import colorize
from maskrestore.runs.figures import CAPTIONS
from maskrestore.utils.files import write_atomically


class Album:
    """A folder of pictures {key}_{kind}.png: of the first `num_samples` samples, and of as many
    with the lowest and the highest accuracy of all that it was shown."""

    def __init__(self, folder: Path, num_samples: int, labels: LabelSet) -> None:
        self._folder, self._labels = folder, labels
        self._num_left = num_samples
        self._extremes = [_Extremes(num_samples, sign) for sign in (1, -1)]
        self._written: set[Path] = set()
        folder.mkdir(parents=True, exist_ok=True)

    def add(
        self, keys: Sequence[str], pictures: dict[str, Tensor], accu: Tensor | None = None
    ) -> None:
        """Draw samples until there are enough, and keep in mind which are the worst and the best.

        pictures: {kind: uint8 [B,3,H,W] images or [B,H,W] label maps}. accu: float [B].
        """
        for number, key in enumerate(keys[: self._num_left]):
            self._draw(key, {kind: images[number] for kind, images in pictures.items()})
        self._num_left -= len(keys[: self._num_left])
        if accu is not None:
            for extremes in self._extremes:
                extremes.add(keys, pictures, accu)

    def close(self) -> None:
        """Draw the worst and the best; delete what an earlier evaluation drew of other samples."""
        for extremes in self._extremes:
            for key, pictures in extremes.chosen():
                self._draw(key, pictures)
        for path in _pictures(self._folder).values():
            if path not in self._written:
                path.unlink()

    def _draw(self, key: str, pictures: dict[str, Tensor]) -> None:
        for kind, picture in pictures.items():
            path = self._folder / f"{key}_{kind}.png"
            if path not in self._written:
                is_mask = picture.ndim == 2
                image = colorize(picture[None].long(), self._labels)[0] if is_mask else picture
                drawn = image.permute(1, 2, 0).cpu().contiguous().numpy()
                write_atomically(path, _png(Image.fromarray(drawn)))
                self._written.add(path)


class _Extremes:
    """The pictures of the samples with the lowest sign * accu so far, where they were computed.

    A GPU picks them by itself: nobody waits for the accuracy of a batch.
    """

    def __init__(self, num_samples: int, sign: int) -> None:
        self._num, self._sign = num_samples, sign
        self._keys: list[str] = []
        self._kept: dict[str, Tensor] = {}

    def add(self, keys: Sequence[str], pictures: dict[str, Tensor], accu: Tensor) -> None:
        first = len(self._keys)
        self._keys += keys
        numbers = torch.arange(first, len(self._keys), device=accu.device)
        kept = self._lowest({**pictures, "score": self._sign * accu, "number": numbers})
        if self._kept:
            kept = self._lowest({k: torch.cat([self._kept[k], kept[k]]) for k in kept})
        self._kept = kept

    def _lowest(self, samples: dict[str, Tensor]) -> dict[str, Tensor]:
        lowest = samples["score"].argsort(stable=True)[: self._num]
        return {name: values[lowest] for name, values in samples.items()}

    def chosen(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Key and pictures of each, the most extreme first."""
        for row, number in enumerate(self._kept["number"].tolist() if self._kept else ()):
            kinds = {kind: self._kept[kind][row] for kind in CAPTIONS if kind in self._kept}
            yield self._keys[number], kinds


def contact_sheet(pictures: Path, path: Path) -> None:
    """One PNG of a folder's pictures, a row per sample, to look at; no file if there are none."""
    paths = _pictures(pictures)
    keys = sorted({key for key, _ in paths})
    kinds = [kind for kind in CAPTIONS if any((key, kind) in paths for key in keys)]
    if not keys:
        return
    with Image.open(next(iter(paths.values()))) as first:
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
            if (key, kind) in paths:
                with Image.open(paths[key, kind]) as picture:
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
