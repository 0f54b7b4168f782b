"""Pictures inside a page: each one once, as a data: URI."""

import base64
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from maskrestore.config.labels import LabelSet
from maskrestore.runs.figures import PHOTOS

QUALITY = 90
"""Of the photographs' WebP, 0..100; as PNG they would be ten times as large."""

MOST_COLORS = 256
"""That a PNG with a palette can hold."""

VOID = "not annotated or void"


def color_names(labels: LabelSet) -> dict[tuple[int, int, int], str]:
    """RGB colour -> the class that it stands for, in the order of the label set, void last; where
    several share one, the first of them."""
    void = labels.by_number[0].color
    names: dict[tuple[int, int, int], str] = {}
    for entry in labels.by_number:
        if entry.color != void:
            names.setdefault(entry.color, entry.name)
    return names | {void: VOID}


class Pictures:
    """The pictures of a page; what the same file shows in several places is held once."""

    def __init__(self, labels: LabelSet) -> None:
        self.names = color_names(labels)
        self.uris: list[str] = []
        """Each distinct picture as a data: URI: masks exactly, photographs nearly."""
        self.classes: list[list[str]] = []
        """Beside each one: the classes whose colours are in it; none for a photograph."""
        self._known: dict[str, int] = {}

    def add(self, path: Path, kind: str) -> int | None:
        """The number of a picture in both lists; None if there is none that can be read."""
        try:
            content = path.read_bytes()
            is_photo = kind in PHOTOS
            digest = hashlib.sha256(bytes([is_photo]) + content).hexdigest()
            if digest not in self._known:
                with Image.open(io.BytesIO(content)) as picture:
                    uri, classes = _embedded(picture.convert("RGB"), is_photo, self.names)
                self._known[digest] = len(self.uris)
                self.uris.append(uri)
                self.classes.append(classes)
            return self._known[digest]
        except OSError:
            return None


def _embedded(
    picture: Image.Image, is_photo: bool, known: Mapping[tuple[int, int, int], str]
) -> tuple[str, list[str]]:
    """A data: URI, and the names of the classes in it."""
    import numpy as np  # --help does without

    buffer = io.BytesIO()
    if is_photo:
        picture.save(buffer, format="WEBP", quality=QUALITY, method=4)
        return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", []
    colors, numbers = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_inverse=True)
    names = []
    if len(colors) <= MOST_COLORS:  # else it is no mask, and stays as it is
        names = [known[r, g, b] for r, g, b in colors.tolist() if (r, g, b) in known]
        palette = Image.fromarray(numbers.reshape(picture.height, picture.width).astype(np.uint8))
        palette.putpalette(colors.tobytes())
        picture = palette
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}", names
