"""The checks of Grafana's dashboard-linter, on a dashboard as it is imported."""

import re
from collections.abc import Iterator
from typing import Any

from maskrestore.monitoring.exporter import METRICS, PREFIX

Dashboard = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {"percentunit", "s", "bytes", "flops", "short", "suffix: images/s"}
"""Grafana's names; a suffix of one's own is not in the linter's list, but Grafana knows none for
images."""
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\{([^{}]*)\}")
BARE = re.compile(r"\b(maskrestore_\w+|ALERTS|up)\b(?!\s*\{)")
RANGE = re.compile(r"\b(rate|irate|increase)\([^\[\]]*\[([^\]]*)\]")


def panels_of(dashboard: Dashboard) -> list[dict[str, Any]]:
    """All panels but the titles of rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def metric_of(name: str) -> str:
    """The exporter's name of a series: without its prefix, and a histogram's without its part."""
    short = name.removeprefix(PREFIX)
    return short if short in METRICS else re.sub(r"_(bucket|sum|count)$", "", short)


def complaints(dashboard: Dashboard, labels: tuple[str, ...]) -> list[str]:
    """Everything that is wrong with a dashboard; labels: those that its queries must filter by."""
    lines = list(_of_dashboard(dashboard, labels))
    for panel in panels_of(dashboard):
        lines += [f"{panel['title']}: {text}" for text in _of_panel(panel, labels)]
    return lines


def _of_dashboard(dashboard: Dashboard, labels: tuple[str, ...]) -> Iterator[str]:
    if dashboard["editable"] is not False:
        yield "can be edited where it is imported"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    if set(variables) != {"datasource", *labels}:
        yield f"variables {sorted(variables)}"
    source = variables.get("datasource", {})
    if (source.get("type"), source.get("query")) != ("datasource", "prometheus"):
        yield "no variable for the data source"
    for name in set(variables) & set(labels):
        variable = variables[name]
        expected = {"type": "query", "datasource": SOURCE, "refresh": 2, "multi": True}
        expected |= {"includeAll": True, "allValue": ".+"}
        if {key: variable.get(key) for key in expected} != expected:
            yield f"variable {name} is not {expected}"
        if not re.fullmatch(rf"label_values\(.+, {name}\)", variable["query"]):
            yield f"variable {name} asks for other values: {variable['query']}"
    numbers = [panel["id"] for panel in dashboard["panels"]]
    if len(set(numbers)) != len(numbers):
        yield "two panels have one id"
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        columns, rows = range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])
        cells = {(x, y) for x in columns for y in rows}
        if cells & taken or columns.stop > 24:
            yield f"{panel['title']} lies on another panel, or beside the page"
        taken |= cells


def _of_panel(panel: dict[str, Any], labels: tuple[str, ...]) -> Iterator[str]:
    for name in ("title", "description"):
        if not panel.get(name, "").strip():
            yield f"no {name}"
    unit = panel["fieldConfig"]["defaults"].get("unit")
    if unit not in UNITS:
        yield f"unit {unit}"
    if panel.get("datasource") != SOURCE:
        yield "data source is fixed"
    if not panel.get("targets"):
        yield "no query"
    for target in panel.get("targets", ()):
        if target.get("datasource") != SOURCE:
            yield "data source of a query is fixed"
        if not target.get("legendFormat"):
            yield "no legend"
        yield from of_expression(target["expr"], labels)


def of_expression(expr: str, labels: tuple[str, ...]) -> Iterator[str]:
    """What is wrong with an expression, but for what promtool finds."""
    for name in BARE.findall(expr):
        yield f"{name} without filters"
    for function, window in RANGE.findall(expr):
        if window != "$__rate_interval":
            yield f"{function} over [{window}], not $__rate_interval"
    for match in SELECTOR.finditer(expr):
        name, filters = match.groups()
        before, behind = expr[: match.start()], expr[match.end() :]
        metric = METRICS.get(metric_of(name))
        if name not in ("up", "ALERTS") and metric is None:
            yield f"{name} is exported by nobody"
        for label in labels:
            # What the main process alone exports has one node, which may not be the one wanted.
            if label == "node" and not (name == "up" or (metric and metric.per_node)):
                continue
            if f'{label}=~"${label}"' not in filters:
                yield f"{name} is not filtered by {label}"
        counts = name.endswith(("_total", "_bucket", "_sum", "_count"))
        if counts and not (
            re.search(r"\b(rate|irate|increase)\($", before) and behind.startswith("[")
        ):
            yield f"counter {name} without rate or increase"
        if name.endswith("_bucket") and "histogram_quantile(" not in before:
            yield f"{name} outside of histogram_quantile"
