"""What users' files are called: one name, however their systems write it."""

import os
import unicodedata
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg")
"""Suffixes of pictures, the first one preferred."""
KNOWN_BLACK = "troisdorf_000000_000073"
"""Key of the train_extra picture of Cityscapes that was published black; its mask shows nothing."""


def plain(name: str) -> str:
    """A name as it is compared with others: its letters composed, its suffix in small ones.

    macOS writes letters and their marks apart (NFD), cameras and Windows write .JPG.
    """
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + suffix.lower()


def as_it_lies(path: Path) -> Path:
    """A path as the disk has it, as far as it is there: what was typed on one system may join
    letters and marks where the files' own system writes them apart."""
    found = Path(path.anchor)
    for part in path.relative_to(found).parts:
        if not os.path.lexists(found / part):
            try:
                names = sorted(os.listdir(found))
            except OSError:
                names = []
            composed = unicodedata.normalize("NFC", part)
            same = (name for name in names if unicodedata.normalize("NFC", name) == composed)
            part = next(same, part)
        found /= part
    return found


def is_hidden(name: str) -> bool:
    """Files that systems leave beside others, called like them: ._a.png of macOS."""
    return name.startswith(".")


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without hidden files. Raises OSError."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))
