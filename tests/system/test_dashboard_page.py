"""The dashboard's page in a real browser, on runs that a real Prometheus watches."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from dashboard_page import (
    Dashboard,
    Driver,
    metrics_of,
    needs_browser,
    needs_prometheus,
    open_page,
    start_dashboard,
    texts,
    wait_in_page,
)
from dashboard_runs import RESULT, make_run, without_prometheus
from processes import wait_until
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from maskrestore.monitoring.targets import tell_failure
from maskrestore.utils import files

pytestmark = [pytest.mark.slow, needs_browser]

ODD = 'sick "<b id=injected>x</b>".*\\{'.replace("/", "")
"""Of a run: what HTML, PromQL and regular expressions each take for something of theirs."""


def healthy(seconds: float) -> str:
    """The metrics of a run that trains."""
    return f"""
maskrestore_run_info{{task="densify",loss="ce",engine="ddp"}} 1
maskrestore_state{{state="training"}} 1
maskrestore_state{{state="saving"}} 0
maskrestore_starts_total 3
maskrestore_progress_ratio 0.42
maskrestore_eta_seconds 125
maskrestore_processes 1
maskrestore_images_total {10 * seconds}
maskrestore_beats_total {seconds}
maskrestore_total_loss {1 + 0.1 * (seconds % 3)}
maskrestore_loss{{term="ce"}} {1 + 0.1 * (seconds % 3)}
maskrestore_step_seconds_count {seconds}
maskrestore_step_seconds_sum {seconds}
maskrestore_step_phase_seconds_total{{phase="data"}} {0.25 * seconds}
maskrestore_step_phase_seconds_total{{phase="backward"}} {0.75 * seconds}
maskrestore_memory_bytes{{rank="0",kind="host"}} {3.5 * 2**30}
"""


def sick(seconds: float) -> str:
    """The same, but half of its steps are left out, its loss is no number, and its networks are too
    many to be told apart in a graph."""
    text = healthy(seconds).replace("maskrestore_total_loss", "maskrestore_total_loss NaN\n# ")
    for number in range(15):
        text += f'maskrestore_gradient_norm{{network="n{number}"}} {number}\n'
    return text + f"maskrestore_skipped_steps_total {seconds // 2}\n"


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    """A dashboard of two runs that go on, one of them sick, and three that ended."""
    runs = tmp_path_factory.mktemp("runs")
    well, ill = make_run(runs / "demo" / "well", 4), make_run(runs / "demo" / ODD, 4)
    make_run(runs / "demo" / "ended", 8, RESULT)
    (make_run(runs / "other" / "broken", 2) / "error.txt").write_text("out of <i>memory</i>")
    (make_run(runs / "other" / "garbage") / "result.json").write_text("{")
    with ExitStack() as stack:
        for run, text in ((well, healthy), (ill, sick)):
            stack.enter_context(files.lock(run))
            stack.enter_context(metrics_of(runs, run, text))
        yield stack.enter_context(start_dashboard(runs, "scrape_seconds=0.2"))


@pytest.fixture
def page(board: Dashboard) -> Iterator[Driver]:
    with open_page(board.url) as driver:
        wait_in_page(driver, "cards", lambda: len(texts(driver, ".card")) == 5)
        yield driver
        severe = [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
        assert severe == []


def counts(driver: Driver) -> dict[str, str]:
    lines = (text.split("\n") for text in texts(driver, "#counts li"))
    return {name.split()[-1]: number for number, name in lines}


@needs_prometheus
def test_the_overview_says_which_runs_are_healthy(page: Driver) -> None:
    wait_in_page(page, "the alert", lambda: texts(page, ".badge.warning"))
    assert counts(page) == {
        "running": "2",
        "healthy": "1",
        "alerting": "1",
        "failed": "2",
        "stopped": "0",
        "done": "1",
    }
    assert texts(page, ".card h3") == [ODD, "broken", "garbage", "well", "ended"]
    first, broken, _, well, ended = texts(page, ".card")
    assert "NonFiniteLoss" in first
    assert f"demo/{ODD} on here left out about" in first
    assert "out of <i>memory</i>" in broken
    for text in ("running", "42", "2 min 05 s", "2 restarts"):
        assert text in well.replace("\u202f", " ")
    for text in ("done", "80", "40", "70.5"):
        assert text in ended
    assert page.find_elements(By.CSS_SELECTOR, "#injected, .card i i, .badge i") == []
    wait_in_page(page, "its loss", lambda: texts(page, ".card.running svg.spark path"))


@needs_prometheus
def test_the_filter_and_the_grid_choose_runs(page: Driver) -> None:
    field = page.find_element(By.ID, "filter")
    field.send_keys("out of nothing")
    wait_in_page(page, "none", lambda: texts(page, "#cards") == ["No run fits the filter."])
    field.clear()
    field.send_keys("DONE")
    wait_in_page(page, "the done one", lambda: texts(page, ".card h3") == ["ended"])
    page.refresh()
    wait_in_page(page, "the same again", lambda: texts(page, ".card h3") == ["ended"])
    page.find_element(By.ID, "filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)
    page.find_element(By.CSS_SELECTOR, '#grids option[value="other"]').click()
    wait_in_page(page, "the grid's", lambda: texts(page, ".card h3") == ["broken", "garbage"])


@needs_prometheus
def test_a_card_leads_to_the_runs_graphs_and_back(page: Driver) -> None:
    wait_in_page(page, "metrics", lambda: "2 restarts" in texts(page, '[data-run="well"]')[0])
    page.find_element(By.CSS_SELECTOR, '.card[data-run="well"]').send_keys(Keys.ENTER)
    wait_in_page(page, "the run", lambda: "well" in "".join(texts(page, ".run-name")))
    wait_in_page(
        page, "numbers", lambda: "42 %" in texts(page, "#run .number")[0].replace("\n", " ")
    )
    assert "training" in " ".join(texts(page, "#run .number"))
    wait_in_page(page, "lines", lambda: drawn(page, "Loss terms", "path.line"))
    loss = graph(page, "Loss terms")
    assert "ce" in loss.text
    page.execute_script("scrollTo(0, document.body.scrollHeight)")
    wait_in_page(page, "areas", lambda: drawn(page, "Where a step's time goes", "path.area"))
    assert {"data", "backward"} <= set(graph(page, "Where a step's time goes").text.split("\n"))
    wait_in_page(page, "memory", lambda: drawn(page, "Memory", "path.line"))
    assert "3.5\u202fGiB" in graph(page, "Memory").text
    wait_in_page(page, "emptiness", lambda: drawn(page, "Image distances", ".note:not(:empty)"))
    assert "no data" in graph(page, "Image distances").text
    chart = loss.find_element(By.CSS_SELECTOR, "svg.chart")
    chart.send_keys(Keys.ARROW_LEFT)
    wait_in_page(page, "values", lambda: "ce" in "".join(texts(page, "#tooltip")))
    chart.send_keys(Keys.ESCAPE)
    assert not page.find_element(By.ID, "tooltip").is_displayed()
    page.find_element(By.ID, "back").send_keys(Keys.ENTER)
    wait_in_page(page, "all runs", lambda: len(texts(page, ".card")) == 5)


@needs_prometheus
def test_a_link_leads_to_a_run_whatever_its_name(board: Dashboard, page: Driver) -> None:
    card = page.find_element(By.CSS_SELECTOR, "#cards section:first-child .card")
    link = card.get_attribute("href")
    assert link
    page.get("about:blank")
    page.get(link)
    wait_in_page(page, "its alert", lambda: "NonFiniteLoss" in "".join(texts(page, ".alert h3")))
    assert ODD in texts(page, ".run-name")[0]
    wait_in_page(page, "its graph", lambda: drawn(page, "Loss terms", "path.line"))
    wait_in_page(page, "many lines", lambda: drawn(page, "Gradient norm", "path.line"))
    told = wait_in_page(page, "its legend", lambda: graph(page, "Gradient norm").text)
    assert "3 more lines are left out" in told
    names = [line for line in told.splitlines() if re.fullmatch(r"n\d+", line)]
    assert names == [f"n{number}" for number in range(3, 15)]
    wait_in_page(page, "its NaN", lambda: drawn(page, "Total loss", "path.nan"))


@needs_prometheus
def test_the_grids_graphs_have_a_line_for_each_run(page: Driver) -> None:
    page.execute_script("document.getElementById('grid-panels').scrollIntoView()")
    wait_in_page(page, "lines", lambda: drawn(page, "Progress of each run", "path.line"))
    legend = "#grid-panels .legend .name"
    wait_in_page(page, "names", lambda: {ODD, "well"} <= set(texts(page, legend)))


def test_many_runs_without_prometheus(tmp_path: Path) -> None:
    for number in range(300):
        make_run(tmp_path / "runs" / "grid" / f"run{number}", 4)
    make_run(tmp_path / "runs" / "grid" / "good", 8, RESULT)
    environment = without_prometheus(tmp_path)
    with (
        start_dashboard(tmp_path / "runs", environment=environment) as board,
        open_page(board.url, width=400) as driver,
    ):
        wait_in_page(driver, "cards", lambda: len(texts(driver, ".card")) == 60)
        assert "Prometheus is not installed" in texts(driver, ".banner")[0]
        assert "The first 60 of 301 runs; 241 are left out" in texts(driver, ".more")[0]
        assert counts(driver)["stopped"] == "300"
        driver.find_element(By.ID, "filter").send_keys("good")
        wait_in_page(driver, "the one", lambda: texts(driver, ".card h3") == ["good"])
        assert texts(driver, ".more") == []
        width = driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
        assert width <= 0


def test_no_runs_yet_and_a_program_that_is_gone(tmp_path: Path) -> None:
    environment = without_prometheus(tmp_path)
    with ExitStack() as stack:
        board = stack.enter_context(start_dashboard(tmp_path / "runs", environment=environment))
        driver = stack.enter_context(open_page(board.url))
        wait_in_page(driver, "a hint", lambda: "launch/submit.py" in "".join(texts(driver, "pre")))
        make_run(tmp_path / "runs" / "grid" / "first", 4)
        wait_in_page(driver, "the first run", lambda: texts(driver, ".card h3") == ["first"])
        board.process.terminate()
        gone = "The dashboard's program does not answer"
        wait_in_page(driver, "the end", lambda: gone in "".join(texts(driver, ".banner")))
        assert texts(driver, ".card h3") == ["first"]  # as it was


def graph(driver: Driver, title: str) -> "Driver":
    """The panel of this title that is to be seen."""
    path = f"//main[not(@hidden)]//article[h3={json.dumps(title)}]"
    return driver.find_element(By.XPATH, path)


def drawn(driver: Driver, title: str, selector: str) -> bool:
    """Whether the panel holds what a CSS selector finds."""
    panel = graph(driver, title)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", panel)
    return bool(panel.find_elements(By.CSS_SELECTOR, selector))


@needs_prometheus
def test_a_run_that_ended_is_shown_as_it_was(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo" / "brief", 8)
    with start_dashboard(tmp_path, "scrape_seconds=0.2") as board:
        with metrics_of(tmp_path, run, healthy):
            often = "count_over_time(maskrestore_total_loss[1m]) > 50"
            wait_until("samples", lambda: board.query(often))
            os.utime(run / "metrics.jsonl")
        (run / "result.json").write_text(json.dumps(RESULT))
        wait_until("its end", lambda: not board.query("maskrestore_total_loss"))
        with open_page(f"{board.url}/#run=brief&grid=demo") as page:
            wait_in_page(
                page, "its end", lambda: "as it was then" in "".join(texts(page, "#run-head"))
            )
            wait_in_page(page, "numbers", lambda: "42" in texts(page, "#run .number")[0])
            wait_in_page(page, "lines", lambda: drawn(page, "Loss terms", "path.line, circle"))


@needs_prometheus
def test_a_run_that_failed_before_its_first_step_says_why_on_its_card(tmp_path: Path) -> None:
    run = tmp_path / "grid" / "misled"  # of which there is no folder
    tell_failure(tmp_path / "targets", run, "generator.path=g.pth: no such file")
    with start_dashboard(tmp_path, "scrape_seconds=0.2") as board, open_page(board.url) as driver:
        [card] = wait_in_page(
            driver, "why", lambda: [t for t in texts(driver, ".card") if "FailedStart" in t]
        )
        assert "failed before its first step: generator.path=g.pth: no such file" in card
        assert "No answer" not in card
        assert "1\n✕ failed" in texts(driver, "#counts li")
