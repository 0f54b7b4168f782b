"""Grafana's dashboards of configs/monitoring/panels.yaml.

python -m launch.dashboards.grafana [out=DIR]

Writes run.json and grid.json, to be imported in Grafana (docs/monitoring.md). Needs the development
dependencies.
"""

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from launch.dashboards.panels import LIMITS, NAMES_ONLY, Panel, read_panels
from maskrestore.config.cli import run_program
from maskrestore.config.settings import CONFIGS, Section, parse
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically

if HAS_SDK := find_spec("grafana_foundation_sdk") is not None:
    from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models import common as looks
    from grafana_foundation_sdk.models import dashboard as models


UNITS = {
    "ratio": "percentunit",
    "seconds": "s",
    "images/s": "suffix: images/s",
    "bytes": "bytes",
    "FLOP/s": "flops",
    "plain": "short",
}
"""Unit of panels.yaml -> Grafana's."""


VARIABLES = {
    "grid": "label_values(maskrestore_run_info, grid)",
    "run": 'label_values(maskrestore_run_info{grid=~"$grid"}, run)',
    "node": 'label_values(maskrestore_rank_step_seconds{grid=~"$grid",run=~"$run"}, node)',
}
"""A variable's values; each name is also its label in Prometheus."""


DASHBOARDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "run": ("maskrestore: a run", ("grid", "run", "node")),
    "grid": ("maskrestore: a grid", ("grid",)),
}
"""File's name -> title, variables. A run's dashboard takes those in its own part of panels.yaml."""


class GrafanaSettings(Section):
    """The words of this program."""

    out: Path = CONFIGS / "monitoring" / "grafana"
    """Folder that the dashboards are written into."""


def main(words: Sequence[str]) -> int:
    """Write both dashboards and print their paths."""
    settings = parse(GrafanaSettings, words)
    if not HAS_SDK:
        raise UserError(
            "grafana_foundation_sdk is not installed: pip install -e '.[dev]' (what it made of the "
            "panels as they were committed is in configs/monitoring/grafana)"
        )
    panels = read_panels()
    settings.out.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        path = settings.out / f"{name}.json"
        write_atomically(path, to_json(name, getattr(panels, name)).encode())
        print(path)
    return 0


def to_json(name: str, panels: Sequence[Panel]) -> str:
    """A dashboard as Grafana imports it; the same panels give the same text."""
    title, variables = DASHBOARDS[name]
    building = (
        dashboard.Dashboard(title)
        .uid(f"maskrestore-{name}")
        .description(
            "Made of configs/monitoring/panels.yaml by launch/dashboards/grafana.py; edit it there."
        )
        .tags(["maskrestore"])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .link(
            dashboard.DashboardLink("maskrestore")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["maskrestore"])
            .include_vars(True)
            .keep_time(True)
        )
    )
    for variable in variables:
        building.with_variable(_variable(variable))
    for annotation in _annotations(variables):
        building.annotation(annotation)
    number = 0
    for group, members in groupby(panels, key=lambda panel: panel.group):
        row = list(members)
        number += 1
        building.with_row(dashboard.Row(group).id(number))
        num_narrow = sum(panel.kind == "number" for panel in row)
        for panel in row:
            number += 1
            width = max(3, 24 // num_narrow) if panel.kind == "number" else 8
            limit = LIMITS[name].get(panel.title)
            made = _panel(panel, limit).id(number).span(width)
            if name == "grid" and panel.kind != "number":  # each line there is a run
                made.data_links([_link_to_run()])
            building.with_panel(made)
    content = json.loads(json.dumps(building.build(), cls=JSONEncoder))
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _source() -> "models.DataSourceRef":
    return models.DataSourceRef(type_val="prometheus", uid="${datasource}")


def _variable(name: str) -> Any:
    """Any number of a label's values; all of them at first, those of later runs included."""
    return (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_source())
        .query(VARIABLES[name])
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _annotations(variables: Sequence[str]) -> list[Any]:
    """Marks on all graphs: a run was started, for the first time or again; an alert fires."""
    selector = ",".join(f'{name}=~"${name}"' for name in variables if name != "node")
    starts = f"maskrestore_starts_total{{{selector}}}"
    marks = {
        "Starts": ("blue", f"{starts} unless {starts} == {starts} offset $__rate_interval"),
        "Alerts": ("red", f'ALERTS{{alertstate="firing",{selector}}}'),
    }
    return [
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(_source())
        .enable(True)
        .icon_color(color)
        .expr(expr)
        for name, (color, expr) in marks.items()
    ]


def _panel(panel: Panel, limit: float | None) -> Any:
    made = _number(panel) if panel.kind == "number" else _graph(panel, limit)
    steps = [models.Threshold(value=None, color="green" if limit is not None else "blue")]
    if limit is not None:
        steps.append(models.Threshold(value=limit, color="red"))
    made = (
        made.title(panel.title)
        .description(panel.description)
        .datasource(_source())
        .unit(UNITS[panel.unit])
        .thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    )
    if panel.unit == "ratio" and limit is None:
        made.min(0)
    for letter, query in zip(ascii_uppercase, panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).datasource(_source()).expr(query.expr)
        target.legend_format(query.legend)
        made.with_target(target.instant() if panel.kind == "number" else target.range())
    return made


def _number(panel: Panel) -> Any:
    """The last value, large."""
    named = panel.title in NAMES_ONLY
    return (
        stat.Panel()
        .height(4)
        .graph_mode(looks.BigValueGraphMode.NONE)
        .color_mode(looks.BigValueColorMode.VALUE)
        .text_mode(looks.BigValueTextMode.NAME if named else looks.BigValueTextMode.AUTO)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def _graph(panel: Panel, limit: float | None) -> Any:
    """Lines over time, or areas on top of each other."""
    stacked = panel.kind == "stack"
    mode = looks.StackingMode.NORMAL if stacked else looks.StackingMode.NONE
    style = looks.GraphTresholdsStyleMode.OFF
    if limit is not None:
        style = looks.GraphTresholdsStyleMode.DASHED
    return (
        timeseries.Panel()
        .height(8)
        .line_width(1)
        .fill_opacity(60 if stacked else 5)
        .show_points(looks.VisibilityMode.AUTO)
        .color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
        .stacking(common.StackingConfig().mode(mode).group("A"))
        .thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
        .tooltip(common.VizTooltipOptions().mode(looks.TooltipDisplayMode.MULTI))
        .legend(
            common.VizLegendOptions()
            .display_mode(looks.LegendDisplayMode.TABLE)
            .placement(looks.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
    )


def _link_to_run() -> Any:
    """From a line of a run to the run's own dashboard, at the same time."""
    return dashboard.DashboardLink("Show ${__field.labels.run}").url(
        "/d/maskrestore-run?var-datasource=${datasource}"
        "&var-grid=${__field.labels.grid:percentencode}"
        "&var-run=${__field.labels.run:percentencode}&${__url_time_range}"
    )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__, GrafanaSettings))
