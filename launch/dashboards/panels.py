"""The panels of configs/monitoring/panels.yaml, checked: what the dashboards' pages draw."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from maskrestore.config.settings import CONFIGS, Section, read_yaml
from maskrestore.utils.errors import ConfigError

PANELS = CONFIGS / "monitoring" / "panels.yaml"


Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


LIMITS = {
    "run": {"Work at risk": 7200, "Alerts": 1, "Waiting for data": 0.3, "Slowest process": 1.3},
    "grid": {"Alerts": 1, "Waiting for data": 0.3, "Work at risk of each run": 7200},
}
"""Where a panel's value turns bad, as in alerts.yml; other limits depend on the run."""


NAMES_ONLY = {"Doing"}
"""Panels whose values are all 1: what they have to say is the name."""


class Query(Section):
    """A PromQL expression; legend: Grafana's template of a line's name."""

    expr: Text
    legend: Text


class Panel(Section):
    """A panel, in the form of panels.yaml, which explains the words."""

    title: Text
    group: Text
    kind: Literal["number", "lines", "stack"]
    unit: Literal["ratio", "seconds", "images/s", "bytes", "FLOP/s", "plain"]
    description: Text
    queries: tuple[Query, ...] = Field(min_length=1)


class Panels(Section):
    """Both dashboards."""

    run: tuple[Panel, ...] = Field(min_length=1)
    grid: tuple[Panel, ...] = Field(min_length=1)


def read_panels(path: Path = PANELS) -> Panels:
    """The panels of both dashboards. ConfigError names every mistake."""
    try:
        return Panels.model_validate(read_yaml(path))
    except ValidationError as error:
        mistakes = [
            (".".join(map(str, mistake["loc"])), mistake["msg"]) for mistake in error.errors()
        ]
    raise ConfigError("\n".join(f"{path}: {where}: {what}" for where, what in mistakes))
