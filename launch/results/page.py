"""The report of a grid as one page that holds everything it needs, to be opened anywhere."""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from launch.grid.cells import Grid
from launch.results.page_data import report_data
from launch.results.table import Table
from launch.results.table_rows import Row

WEB = Path(__file__).resolve().parents[1] / "web"
SCRIPTS = (
    "dom.js",
    "format.js",
    "report_curves.js",
    "report_data.js",
    "report_dots.js",
    "report_tables.js",
    "report_compare.js",
    "report.js",
)
"""The page's modules, each behind those that it imports; in the page they are a single one."""


def html_report(grid: Grid, rows: Sequence[Row], table: Table, words: Sequence[str]) -> str:
    """The page, HTML whose only reference to anything outside is what the user clicks on.

    words: the report's own, less those that say what it writes. Texts reach the page as JSON that
    its script reads; the policy in its head lets nothing be loaded and no other script run.
    """
    report = report_data(grid, rows, table, words)
    data = json.dumps(_finite(report), separators=(",", ":"))
    style = _asset("report.css")
    script = "\n".join(_as_one_module(_asset(name)) for name in SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; script-src {_sha256(script)}; "
        f"style-src {_sha256(style)}; base-uri 'none'; form-action 'none'"
    )
    icon = base64.b64encode(_asset("icon.svg").encode()).decode()
    return Template(_asset("report.html")).substitute(
        title=html.escape(report["title"]),
        policy=html.escape(policy),
        icon=f"data:image/svg+xml;base64,{icon}",
        style=style,
        data=data.replace("<", "\\u003c"),  # no text ends the element that holds it
        script=script,
    )


def _asset(name: str) -> str:
    return (WEB / name).read_text(encoding="utf-8")


def _as_one_module(text: str) -> str:
    """A module's code without imports and exports: all of them are one script here."""
    text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def _sha256(text: str) -> str:
    """What a content security policy calls an element of this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have; the texts beside them say NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
