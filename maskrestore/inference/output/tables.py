"""The tables of the output folder: summary.csv of all masks, manifest.csv of image pairs."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from maskrestore.inference.mask_files import MaskFile
from maskrestore.utils.files import write_atomically

SUMMARY, MANIFEST = "summary.csv", "manifest.csv"
COLUMNS = (
    "file",
    "height",
    "width",
    "annotated",
    "contradicted",
    "confidence",
    "below_half",
    "regions",
    "problem",
)
PAIR = ("image", "mask")


def write_summary(output: Path, ends: Sequence[tuple[MaskFile, Mapping[str, Any]]]) -> None:
    """A row for each mask that was restored or not, ends: with its last line of the journals."""
    rows = [
        {"file": mask.name, **line.get("row", {}), "problem": line.get("problem")}
        for mask, line in ends
    ]
    write_atomically(output / SUMMARY, _table(COLUMNS, rows))


def write_pairs(output: Path, masks: Sequence[MaskFile]) -> None:
    """A row for each restored mask: its synthesised image, and what belongs to it."""
    rows = [
        {
            "image": names["synthesized"],
            "mask": names["synthesized_mask"],
            "restored": names["restored"],
            "input": mask.name,
        }
        for mask in masks
        for names in [mask.outputs(True)]
    ]
    write_atomically(output / MANIFEST, _table((*PAIR, "restored", "input"), rows))


def remove_pairs(output: Path) -> None:
    """manifest.csv and its synthesised pairs, which other settings made."""
    manifest = output / MANIFEST
    if not manifest.exists():
        return
    with open(manifest, encoding="utf-8", errors="replace", newline="") as file:
        names = [row.get(kind) or "" for row in csv.DictReader(file) for kind in PAIR]
    for path in (output / name for name in names):
        within = path.resolve().is_relative_to(output.resolve())
        if within and path.name.endswith(("_synthesized.png", "_synthesized_mask.png")):
            path.unlink(missing_ok=True)
    manifest.unlink()


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    # Names of files need not be UTF-8; the table is.
    return text.getvalue().encode(errors="backslashreplace")
