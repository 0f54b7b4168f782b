"""metrics.jsonl: what a run noted while it trained, one JSON object a line."""

import json
from pathlib import Path
from typing import Any


def _json_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that can be read and say how far the run was; a run may be writing the last."""
    lines = []
    for text in path.read_text("utf-8", "replace").splitlines() if path.is_file() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("num_images"), int):
            lines.append(line)
    return lines


def _last_lines(path: Path, num_bytes: int = 8192) -> list[dict[str, Any]]:
    """The whole JSON lines at the end of a file that may be growing."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - num_bytes))
            tail = file.read().splitlines()
    except FileNotFoundError:
        return []
    lines = []
    for text in tail:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut off: at the seek, or still being written
        if isinstance(line, dict):
            lines.append(line)
    return lines


METRICS = "metrics.jsonl"


def was_evaluated(run: Path, num_images: int) -> bool:
    """Whether metrics.jsonl holds an evaluation after so many images."""
    lines = _read_lines(run / METRICS)
    return any(line["num_images"] == num_images and "evaluation" in line for line in lines)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl; the last one of a run that was killed may be half one."""
    found = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            if isinstance(line["num_images"], int):
                found.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return found
