"""Rules, alerts and dashboards: as they are committed, and that the checks on them can fail."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dashboard_lint import Dashboard, complaints, metric_of, of_expression, panels_of
from forked import ROOT

from launch.dashboards import grafana, panels
from maskrestore.config.settings import read_yaml
from maskrestore.monitoring.exporter import METRICS
from maskrestore.utils.errors import ConfigError

MONITORING = ROOT / "configs" / "monitoring"
LABELS = {"run": ("grid", "run", "node"), "grid": ("grid",)}
ALERTS = [
    "MaskrestoreCheckpointTooOld",
    "MaskrestoreCrashLoop",
    "MaskrestoreDataStarvation",
    "MaskrestoreFailedStart",
    "MaskrestoreLossSpike",
    "MaskrestoreNonFiniteLoss",
    "MaskrestoreStalled",
    "MaskrestoreStraggler",
    "MaskrestoreTargetDown",
    "MaskrestoreThroughputDrop",
]
EXCEPTIONS = {
    # It is kept in the run folder: its value is the answer, not how fast it grows.
    ("run", "Starts: counter maskrestore_starts_total without rate or increase"),
    ("grid", "Starts: counter maskrestore_starts_total without rate or increase"),
}

needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="needs promtool (Debian: prometheus)"
)
both = pytest.mark.parametrize("name", ["run", "grid"])


def read_dashboard(name: str) -> Dashboard:
    dashboard: Dashboard = json.loads((MONITORING / "grafana" / f"{name}.json").read_text())
    return dashboard


def rules_in(name: str) -> list[dict[str, Any]]:
    return [rule for group in read_yaml(MONITORING / name)["groups"] for rule in group["rules"]]


def promtool(*words: str | Path, cwd: Path = MONITORING) -> None:
    ended = subprocess.run(["promtool", *words], cwd=cwd, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


# Dashboards


@both
def test_the_committed_dashboards_are_those_of_the_panels(name: str) -> None:
    committed = (MONITORING / "grafana" / f"{name}.json").read_text()
    made = grafana.to_json(name, getattr(panels.read_panels(), name))
    assert committed == made, "panels.yaml or launch/dashboards/grafana.py changed: make dashboards"


@both
def test_the_dashboard_linter_has_nothing_to_say(name: str) -> None:
    expected = {text for of, text in EXCEPTIONS if of == name}
    assert set(complaints(read_dashboard(name), LABELS[name])) == expected


def _panel(change: Callable[[dict[str, Any]], Any]) -> Callable[[Dashboard], Any]:
    return lambda dashboard: change(panels_of(dashboard)[0])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_panel(lambda panel: panel.update(title=" ")), " : no title"),
        (_panel(lambda panel: panel.pop("description")), "no description"),
        (_panel(lambda panel: panel["fieldConfig"]["defaults"].pop("unit")), "unit None"),
        (_panel(lambda panel: panel["datasource"].update(uid="abc")), "data source is fixed"),
        (_panel(lambda panel: panel["targets"][0].pop("datasource")), "of a query is fixed"),
        (_panel(lambda panel: panel["targets"].clear()), "no query"),
        (_panel(lambda panel: panel["targets"][0].update(legendFormat="")), "no legend"),
        (_panel(lambda panel: panel.update(id=3)), "two panels have one id"),
        (_panel(lambda panel: panel["gridPos"].update(w=9)), "lies on another panel"),
        (lambda dashboard: dashboard.update(editable=True), "can be edited"),
        (lambda dashboard: dashboard["templating"]["list"].pop(), "variables ['datasource', 'gr"),
        (lambda dashboard: dashboard["templating"]["list"].pop(0), "no variable for the data so"),
        (lambda dashboard: dashboard["templating"]["list"][2].update(multi=False), "variable run"),
        (lambda dashboard: dashboard["templating"]["list"][2].update(query="x"), "other values"),
    ],
)
def test_the_linter_complains(damage: Callable[[Dashboard], Any], expected: str) -> None:
    dashboard = read_dashboard("run")
    damage(dashboard)
    assert any(expected in text for text in complaints(dashboard, LABELS["run"]))


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("maskrestore_processes", "maskrestore_processes without filters"),
        ('maskrestore_processes{grid=~"$grid"}', "maskrestore_processes is not filtered by run"),
        (
            'maskrestore_memory_bytes{grid=~"$grid",run=~"$run"}',
            "maskrestore_memory_bytes is not filtered by node",
        ),
        ('maskrestore_speed{grid=~"$grid",run=~"$run"}', "maskrestore_speed is exported by nobody"),
        (
            'rate(maskrestore_images_total{grid=~"$grid",run=~"$run"}[5m])',
            "rate over [5m], not $__rate_interval",
        ),
        (
            'sum(maskrestore_images_total{grid=~"$grid",run=~"$run"})',
            "counter maskrestore_images_total without rate or increase",
        ),
        (
            'rate(maskrestore_step_seconds_bucket{grid=~"$grid",run=~"$run",node=~"$node"}'
            "[$__rate_interval])",
            "maskrestore_step_seconds_bucket outside of histogram_quantile",
        ),
    ],
)
def test_the_linter_complains_of_an_expression(expr: str, expected: str) -> None:
    assert list(of_expression(expr, LABELS["run"])) == [expected]


@needs_promtool
@both
def test_every_expression_of_the_dashboards_is_promql(name: str, tmp_path: Path) -> None:
    dashboard = read_dashboard(name)
    expressions = [t["expr"] for panel in panels_of(dashboard) for t in panel["targets"]]
    expressions += [mark["expr"] for mark in dashboard["annotations"]["list"]]
    for variable in dashboard["templating"]["list"][1:]:
        expressions.append(variable["query"].removeprefix("label_values(").rpartition(",")[0])
    rules = [
        {"record": f"test:number{number}", "expr": expr.replace("$__rate_interval", "1m")}
        for number, expr in enumerate(expressions)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "test", "rules": rules}]}))
    promtool("check", "rules", path)


@both
def test_limits_and_names_are_of_panels_that_there_are(name: str) -> None:
    titles = [panel.title for panel in getattr(panels.read_panels(), name)]
    assert len(set(titles)) == len(titles)
    assert set(panels.LIMITS[name]) <= set(titles)
    assert name != "run" or set(titles) >= panels.NAMES_ONLY


@both
def test_panels_of_a_group_stand_together(name: str) -> None:
    groups = [panel.group for panel in getattr(panels.read_panels(), name)]
    begins = [new for old, new in zip(["", *groups], groups, strict=False) if new != old]
    assert len(set(begins)) == len(begins)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    kind: number", "    kind: gauge", "run.0.kind"),
        ("    unit: ratio", "    unit: percent", "run.0.unit"),
        ("title: Progress", "title: ' '", "run.0.title"),
        ("legend: '{{run}}'", "legend: ''", "run.0.queries.0.legend"),
        ("    kind: number", "    kind: number\n    colour: red", "run.0.colour"),
        ("group: Progress", "grupp: Progress", "run.0.group"),
        ("grid:\n  - title", "grids:\n  - title", "grids: "),
    ],
)
def test_a_mistake_in_the_panels_is_named(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    text = panels.PANELS.read_text()
    assert old in text
    path = tmp_path / "panels.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(expected)):
        panels.read_panels(path)


def run_grafana(*words: str, before: str = "") -> subprocess.CompletedProcess[str]:
    run = "runpy.run_module('launch.dashboards.grafana', run_name='__main__')"
    program = f"import runpy, sys; {before}{run}"
    return subprocess.run(
        [sys.executable, "-c", program, *words], cwd=ROOT, capture_output=True, text=True
    )


def test_the_program_writes_both(tmp_path: Path) -> None:
    ended = run_grafana(f"out={tmp_path / 'new'}")
    assert (ended.returncode, ended.stderr) == (0, "")
    for name in ("run", "grid"):
        committed = MONITORING / "grafana" / f"{name}.json"
        assert (tmp_path / "new" / f"{name}.json").read_bytes() == committed.read_bytes()


def test_without_the_sdk_the_program_says_so(tmp_path: Path) -> None:
    missing = "sys.modules['grafana_foundation_sdk'] = None; "
    ended = run_grafana(f"out={tmp_path}", before=missing)
    assert ended.returncode == 2
    assert ended.stderr.startswith("grafana_foundation_sdk is not installed: ")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


# Rules and alerts


@needs_promtool
def test_prometheus_takes_its_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


@needs_promtool
def test_prometheus_takes_the_examples_in_its_configuration(tmp_path: Path) -> None:
    text = (MONITORING / "prometheus.yml").read_text()
    example = re.compile(r"^( *)# ( *(?:- )?[a-z_]+:(?: .*)?)$", re.MULTILINE)
    shown, number = example.subn(r"\1\2", text)
    assert number == 11
    parsed = yaml.safe_load(shown)
    assert [job["job_name"] for job in parsed["scrape_configs"]] == ["maskrestore", "pushgateway"]
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(MONITORING / name, tmp_path)
    (tmp_path / "prometheus.yml").write_text(shown)
    (tmp_path / "maskrestore-ca.pem").touch()
    (tmp_path / "maskrestore.password").write_text("secret")
    promtool("check", "config", "prometheus.yml", cwd=tmp_path)


@needs_promtool
def test_prometheus_takes_the_rules() -> None:
    promtool("check", "rules", "--lint-fatal", "rules.yml", "alerts.yml")


@needs_promtool
@pytest.mark.slow
def test_each_alert_fires_on_its_sickness_and_on_nothing_else() -> None:
    promtool("test", "rules", "alerts_test.yml")


def test_the_alerts_are_told_of_tested_and_documented() -> None:
    rules = rules_in("alerts.yml")
    assert sorted({rule["alert"] for rule in rules}) == ALERTS
    tests = (MONITORING / "alerts_test.yml").read_text()
    page = (ROOT / "docs" / "monitoring.md").read_text()
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "warning")
        texts = rule["annotations"]
        assert set(texts) == {"summary", "description"}
        for label in ("$labels.grid", "$labels.run", "node"):
            assert label in texts["summary"] + texts["description"], (rule["alert"], label)
        assert f'alertname="{rule["alert"]}"' in tests
        assert f"`{rule['alert']}`" in page


def test_no_rule_loses_sight_of_the_run() -> None:
    """Every aggregation keeps grid and run: one alert for a whole grid helps nobody."""
    for rule in rules_in("rules.yml") + rules_in("alerts.yml"):
        for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"]):
            assert {"grid", "run"} <= set(labels.replace(" ", "").split(",")), rule


def test_rules_and_alerts_name_metrics_that_are_exported() -> None:
    rules = rules_in("rules.yml") + rules_in("alerts.yml")
    recorded = {rule["record"] for rule in rules if "record" in rule}
    texts = [rule["expr"] for rule in rules]
    texts += [text for rule in rules for text in rule.get("annotations", {}).values()]
    named = {name for text in texts for name in re.findall(r"\bmaskrestore[_:][\w:]+", text)}
    assert named, "the pattern finds nothing"
    unknown = {name for name in named - recorded if metric_of(name) not in METRICS}
    assert not unknown
    assert recorded <= named, "a rule that nobody uses"


def test_the_page_tells_of_every_metric() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    assert [name for name in METRICS if f"`{name}" not in page] == []
