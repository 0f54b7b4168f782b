"""The whole of telemetry on real runs: a dashboard with a real Prometheus watches healthy and sick
ones, and a real browser looks at it.

Rules and alerts are those of configs/monitoring with a minute made a second; their true durations
are promtool's to test (configs/monitoring/alerts_test.yml).
"""

import math
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dashboard_page import (
    Dashboard,
    needs_browser,
    needs_prometheus,
    open_page,
    start_dashboard,
    texts,
    wait_in_page,
)
from forked import ROOT, Process
from metrics_page import targets_in
from processes import PATIENCE
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from tiny_runs import TINY, free_port, start_ranks

from launch.dashboards.panels import Panel, read_panels

pytestmark = [pytest.mark.slow, needs_prometheus]

MONITORING = ROOT / "configs" / "monitoring"
PROGRAM = ROOT / "tests" / "programs" / "sick.py"
SCREENSHOTS = ROOT / "build" / "screenshots"
RARELY = ("training.checkpoint_images=100000", "training.evaluate_images=100000")
PACE = 0.5
"""Seconds that each step takes longer, so that a dozen runs find room on two cores."""
SICKNESSES = {
    ("MaskrestoreStalled", "stalled"),
    ("MaskrestoreNonFiniteLoss", "poisoned"),
    ("MaskrestoreLossSpike", "spiked"),
    ("MaskrestoreThroughputDrop", "slowed"),
    ("MaskrestoreDataStarvation", "starved"),
    ("MaskrestoreCheckpointTooOld", "unsaved"),
    ("MaskrestoreCrashLoop", "crashing"),
    ("MaskrestoreStraggler", "straggling"),
    ("MaskrestoreTargetDown", "killed"),
    ("MaskrestoreFailedStart", "misled"),
}
BESIDE_OTHERS = "PYTEST_XDIST_WORKER" in os.environ
SLOWED = ("MaskrestoreStraggler", "MaskrestoreThroughputDrop") if BESIDE_OTHERS else ()
"""What a healthy run may have too beside other tests: a second stands for a minute, and those that
want the two cores do slow it for so long. By itself nothing else may fire."""

PENDING = {
    "MaskrestoreCheckpointTooOld": "30s",
    "MaskrestoreTargetDown": "10s",
    "MaskrestoreStalled": "30s",
}
"""Two minutes would be too long a test, two seconds too short for a restart, and ten for a healthy
run on a machine whose disk is busy: each save waits for it."""


def faster(text: str) -> str:
    """Durations 60 times shorter: minutes become seconds, hours minutes."""
    return re.sub(r"\b(\d+)([mh])\b", lambda m: m[1] + {"m": "s", "h": "m"}[m[2]], text)


def write_fast_rules(folder: Path) -> None:
    """configs/monitoring in a hurry."""
    (folder / "prometheus.yml").write_text((MONITORING / "prometheus.yml").read_text())
    for name in ("rules.yml", "alerts.yml"):
        content = yaml.safe_load((MONITORING / name).read_text())
        for group in content["groups"]:
            group["interval"] = "500ms"
        for rule in (rule for group in content["groups"] for rule in group["rules"]):
            rule["expr"] = faster(rule["expr"])
            if "for" in rule:
                rule["for"] = PENDING.get(rule["alert"]) or faster(rule["for"])
            if rule.get("alert") == "MaskrestoreCheckpointTooOld":  # as its patience is shorter
                assert "[1m]" in rule["expr"]
                rule["expr"] = rule["expr"].replace("[1m]", "[5s]")
        (folder / name).write_text(yaml.safe_dump(content))


class Ward:
    """Runs under observation, cells of one grid; tests/programs/sick.py reads their doses."""

    def __init__(self, folder: Path, shards: Path, generator: Path) -> None:
        self.folder = folder
        self._shards, self._generator = shards, generator
        self.runs: dict[str, list[Process]] = {}

    def start(self, name: str, *more: str, number: int = 1, sick_rank: int = -1) -> None:
        """A long run of `number` processes."""
        doses = self.folder / "doses" / name
        doses.mkdir(parents=True, exist_ok=True)
        words = [
            *TINY,
            f"data.shards={self._shards}",
            f"generator.path={self._generator}",
            f"run={self.folder / 'runs' / 'ward' / name}",
            f"telemetry.targets={self.folder / 'runs' / 'targets'}",
            *("task=densify", "loss=ce", "training.num_images=100000", "data.prefetch_batches=1"),
            *("training.evaluate_images=160", "training.checkpoint_images=40"),
            *("training.log_images=4", "mask_generator.start=input"),
            *("health.max_skipped_steps=100000", "telemetry.peak_flops=1e11"),
            *more,
        ]
        sick = {"SICK": f"{PACE}:{sick_rank}:{doses}", "PYTHONPATH": str(ROOT)}
        self.runs[name] = start_ranks(words, number, program=PROGRAM, environment=sick)

    def infect(self, name: str, organ: str, dose: float) -> None:
        """Make a run sick: its step, its data or its loss."""
        (self.folder / "doses" / name / organ).write_text(str(dose))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        for process in self.runs.pop(name):
            process.kill()
            process.communicate()

    def wait_for_targets(self) -> None:
        """Until Prometheus could find each of the runs."""
        while len(targets_in(self.folder / "runs" / "targets")) < len(self.runs):
            time.sleep(0.1)
            for name, processes in self.runs.items():
                for process in processes:
                    assert process.poll() is None, (name, process.communicate()[1])


@pytest.fixture(scope="module")
def observed(
    tmp_path_factory: pytest.TempPathFactory, shards: Path, generator: Path
) -> Iterator[tuple[Dashboard, Ward]]:
    """A dashboard, and ten runs that it watches; two of them are sick from the start."""
    folder = tmp_path_factory.mktemp("observed")
    write_fast_rules(folder)
    ward = Ward(folder, shards, generator)
    words = (f"monitoring={folder}", "scrape_seconds=0.5")
    with start_dashboard(Path("runs"), *words, folder=folder) as dashboard:
        try:
            many = ("loss=ce_vgg_l1", "distributed.frozen_precision=bf16")
            ward.start("healthy", *many, number=2)
            ward.start("straggling", number=2, sick_rank=1)
            ward.start("stalled", number=2)
            for name in ("poisoned", "spiked", "slowed", "starved", "killed"):
                ward.start(name)
            ward.start("unsaved", *RARELY)
            ward.infect("straggling", "step", 2 * PACE)
            ward.infect("starved", "data", 2 * PACE)
            ward.wait_for_targets()
            yield dashboard, ward
        finally:
            for name in list(ward.runs):
                ward.kill(name)


def has_fired(dashboard: Dashboard) -> set[tuple[str, str]]:
    """Each alert that has fired so far, with its run."""
    every = 'count by (alertname, run) (count_over_time(ALERTS{alertstate="firing"}[1h]))'
    alerts = [entry["metric"] for entry in dashboard.query(every)]
    return {(alert["alertname"], alert.get("run", "")) for alert in alerts}


def test_each_alert_fires_on_its_sickness_and_on_nothing_else(
    observed: tuple[Dashboard, Ward],
) -> None:
    dashboard, ward = observed
    fixed = (*RARELY, f"telemetry.port={free_port()}")  # so that Prometheus knows where, each time
    for number in range(1, 5):
        ward.start("crashing", *fixed)
        while not dashboard.query(f'maskrestore:starts:max{{run="crashing"}} == {number}'):
            time.sleep(0.1)
        ward.kill("crashing")
    ward.start("crashing", fixed[-1])  # and from now on it saves what it does
    ward.start("misled", "loss=ce_l1", "generator.path=nowhere.pth")
    ward.infect("poisoned", "loss", math.nan)
    ward.runs["stalled"][1].send_signal(signal.SIGSTOP)
    ward.kill("killed")
    # A past with which the next two are compared.
    speeds = 'count_over_time(maskrestore:images_per_process:rate5m{run="slowed"}[1m]) > 50'
    losses = 'changes(maskrestore:total_loss:finite{run="spiked"}[30s]) > 20'
    while not (dashboard.query(speeds) and dashboard.query(losses)):
        time.sleep(0.2)
    ward.infect("spiked", "loss", 50)
    ward.infect("slowed", "step", 4 * PACE)
    deadline = time.monotonic() + PATIENCE
    while not (fired := has_fired(dashboard)) >= SICKNESSES and time.monotonic() < deadline:
        time.sleep(1)
    assert fired >= SICKNESSES
    assert {alert for alert in fired - SICKNESSES if alert[0] not in SLOWED} == set()


def expression(panel: Panel, number: int) -> str:
    """A query of a panel for the run of good health."""
    names = {"$grid": "ward", "$run": "healthy", "$node": ".+", "$__rate_interval": "5s"}
    expr = panel.queries[number].expr
    for name, meaning in names.items():
        expr = expr.replace(name, meaning)
    assert "$" not in expr
    return expr


def test_every_expression_finds_something(observed: tuple[Dashboard, Ward]) -> None:
    dashboard, _ = observed
    panels = read_panels()
    expressions = {
        f"{part}, {panel.title}, {number}": expression(panel, number)
        for part in ("run", "grid")
        for panel in getattr(panels, part)
        for number in range(len(panel.queries))
    }
    rules = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    records = [rule["record"] for group in rules for rule in group["rules"]]
    expressions |= {name: f'{name}{{run="healthy"}}' for name in records}
    missing = dict(expressions)
    deadline = time.monotonic() + PATIENCE  # an evaluation comes every ten seconds
    while missing and time.monotonic() < deadline:
        for name, expr in list(missing.items()):
            values = [float(entry["value"][1]) for entry in dashboard.query(expr)]
            if any(map(math.isfinite, values)):  # the poisoned run has a loss of NaN
                del missing[name]
        time.sleep(0.5)
    assert missing == {}


@needs_browser
def test_a_person_sees_which_runs_are_healthy(observed: tuple[Dashboard, Ward]) -> None:
    dashboard, ward = observed
    names = {*ward.runs, "killed"}
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with open_page(dashboard.url) as driver:
        wait_in_page(driver, "all cards", lambda: set(texts(driver, ".card h3")) == names)

        def cards() -> dict[str, str]:
            return dict(zip(texts(driver, ".card h3"), texts(driver, ".card"), strict=True))

        for name, word in {
            "killed": "TargetDown",
            "misled": "failed before its first step: generator.path=nowhere.pth",
            "stalled": "Stalled",
            "starved": "DataStarvation",
            "straggling": "Straggler",
            "unsaved": "CheckpointTooOld",
        }.items():
            wait_in_page(driver, f"{name}: {word}", lambda n=name, w=word: w in cards()[n])
        wait_in_page(driver, "healthy: running", lambda: "running" in cards()["healthy"])
        healthy = cards()["healthy"]
        words = {word.removeprefix("Maskrestore") for word, _ in SICKNESSES if word not in SLOWED}
        assert not {word for word in words if word in healthy}
        first = texts(driver, ".card h3")
        assert first.index("killed") < first.index("healthy")  # what needs attention comes first
        driver.set_window_size(1400, 1330)
        driver.save_screenshot(str(SCREENSHOTS / "overview.png"))
        driver.find_element(By.CSS_SELECTOR, '.card[data-run="healthy"]').send_keys(Keys.ENTER)
        for panel in driver.find_elements(By.CSS_SELECTOR, "#run-panels article"):
            driver.execute_script("arguments[0].scrollIntoView()", panel)
            title = panel.find_element(By.TAG_NAME, "h3").text
            wait_in_page(driver, title, lambda p=panel: has_drawn(p))
        driver.execute_script("scrollTo(0, 0)")
        driver.save_screenshot(str(SCREENSHOTS / "run.png"))


def has_drawn(panel: WebElement) -> bool:
    """Whether a panel of the page shows numbers, or lines or areas."""
    shown = panel.find_elements(By.CSS_SELECTOR, ".value, svg path.line, svg path.area")
    return bool(shown) and "empty" not in (panel.get_attribute("class") or "").split()
