"""What users' files are called: one name, however their systems write it."""

import os
import unicodedata
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg")
"""Suffixes of pictures, the first one preferred."""


def plain(name: str) -> str:
    """A name as it is compared with others: its letters composed, its suffix in small ones.

    macOS writes letters and their marks apart (NFD), cameras and Windows write .JPG.
    """
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + suffix.lower()


def is_hidden(name: str) -> bool:
    """Files that systems leave beside others, called like them: ._a.png of macOS."""
    return name.startswith(".")


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without hidden files. Raises OSError."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))
