"""The page of report.py in a real browser: what it shows and how it is used."""

import json
from pathlib import Path
from typing import Any

import pytest
from dashboard_page import Driver, needs_browser, texts
from finished_cells import cells_of, finish, tiny_grid, train
from report_page import ODD, ODD_KEY, data_of
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from launch.report import main

pytestmark = [pytest.mark.slow, needs_browser]


def test_opening_it_asks_for_nothing_and_runs_no_text(page: Driver, path: Path) -> None:
    resources = page.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert [name for name in resources if not name.startswith("data:")] == []
    assert page.find_elements(By.ID, "injected") == []
    assert page.title == "Mask restoration: tiny-table1"
    assert ODD in texts(page, "#warnings")[0] or ODD in texts(page, "#made")[0]
    page.find_element(By.CSS_SELECTOR, f"#sample option[value={json.dumps(ODD_KEY)}]")
    images = "return [...document.images].every((image) => image.complete && image.naturalWidth)"
    assert page.execute_script(images)


def test_its_policy_stops_scripts_and_requests_that_are_not_its_own(page: Driver) -> None:
    script = """
        const [kind, done] = arguments;
        addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
        const element = document.createElement(kind);
        if (kind === "img") element.src = "http://127.0.0.1:9/";
        else element.textContent = "document.title = 'run'";
        document.body.append(element);"""
    assert page.execute_async_script(script, "img") == "img-src"
    assert page.execute_async_script(script, "script") == "script-src-elem"
    assert page.title != "run"
    assert len(page.get_log("browser")) == 2


def result_of(words: list[str], name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((cells_of(words)[name].folder / "result.json").read_text())
    return result


def test_every_figure_is_the_results(page: Driver, rich_words: list[str]) -> None:
    script = """return [...document.querySelectorAll('section td[data-key]')].map((cell) =>
        [cell.closest('tr').dataset.row, cell.dataset.key, cell.innerText])"""
    shown = {(row, key): text.split() for row, key, text in page.execute_script(script)}
    checked = 0
    for row in ("synthesis", "none", "fill", ODD, "smaller"):
        metrics = result_of(rich_words, row)["metrics"]
        for key in {key for _, key in shown}:
            value, interval = metrics.get(key), (metrics.get("intervals") or {}).get(key)
            if value is None:
                assert shown[row, key] == ["-"]
                continue
            text = f"{100 * value:.1f}" if key not in ("fid", "kid") else shown[row, key][0]
            assert shown[row, key][0].rstrip("†‡") == text
            assert float(text) == pytest.approx(
                value if key in ("fid", "kid") else 100 * value, abs=0.051
            )
            if interval:
                assert shown[row, key][1:] == [
                    "\N{EN DASH}".join(f"{100 * end:.1f}" for end in interval)
                ]
            checked += 1
    assert checked > 25
    # Deviations -1, 1; n - 1 = 1. Below it the interval of the mean.
    assert shown["ce", "accu"] == ["87.0†", "±", "1.4", "85.7\N{EN DASH}88.3"]
    assert shown["ce", "miou19"] == ["50.5", "±", "0.7"]
    assert shown[ODD, "accu"][0] == "87.7‡"
    assert shown["ce", "accu19"] == ["-"]
    assert shown[ODD, "miou19"][0] == "43.2†"
    (note,) = texts(page, "#weak-4")
    assert note.startswith(
        "densification, CE+L1: ‡ accu 87.7, while none (nearest label) has 87.1 untrained: "
        "+0.6 (-2.0 to +3."
    )
    assert note.endswith("; † mIoU (19) 43.2, while none (nearest label) has 48.7 untrained: -5.5.")
    (card,) = (text for text in texts(page, "#best .card") if "· accu" in text)
    assert "▲ 0.6 more than the best untrained" in card
    assert "; difference +0.6 (-2.0 to +3." in card
    assert card.endswith("so it may be chance")
    by_name = dict(zip(order(page), texts(page, "#table tbody tr"), strict=True))
    assert "missing" in by_name["lost"]
    assert by_name["none"].split()[-3:] == ["68.5", "39.4", "157.7"]
    assert "untrained" in by_name["fill"]
    assert "untrained" not in by_name["ce"]
    assert texts(page, "#more tr:last-child")[-1].split() == ["drop", "3", "70.0", "-"]


def order(page: Driver) -> list[str]:
    script = (
        "return [...document.querySelectorAll('#table tbody tr')].map((row) => row.dataset.row)"
    )
    names: list[str] = page.execute_script(script)
    return names


def test_headings_sort_by_keyboard(page: Driver) -> None:
    as_written = order(page)
    (head,) = (
        head
        for head in page.find_elements(By.CSS_SELECTOR, "#table th.ours")
        if head.text == "accu"
    )
    button = head.find_element(By.TAG_NAME, "button")
    button.send_keys(Keys.ENTER)
    assert order(page) == [ODD, "fill", "ce", "smaller", "none", "synthesis", "lost"]
    assert head.get_attribute("aria-sort") == "descending"
    button.send_keys(Keys.SPACE)
    assert order(page) == ["none", "smaller", "ce", "fill", ODD, "synthesis", "lost"]
    assert head.get_attribute("aria-sort") == "ascending"
    button.send_keys(Keys.ENTER)
    assert order(page) == as_written
    assert head.get_attribute("aria-sort") is None


def test_the_slider_moves_by_keyboard_and_rows_are_chosen(page: Driver, path: Path) -> None:
    over = page.find_element(By.CSS_SELECTOR, ".compare .over")
    slider = page.find_element(By.CSS_SELECTOR, ".compare .slider")
    before = over.value_of_css_property("clip-path")
    assert slider.get_attribute("aria-valuetext") == "50 % input mask, 50 % restored mask"
    slider.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert over.value_of_css_property("clip-path") == "inset(0px 48% 0px 0px)" != before
    assert slider.get_attribute("aria-valuetext") == "52 % input mask, 48 % restored mask"
    page.find_element(By.CSS_SELECTOR, '.compare button[value="restored | true"]').send_keys(
        Keys.ENTER
    )
    assert texts(page, ".compare:first-child .tag") == ["restored mask", "true mask"]

    data = data_of(path)
    numbers = {row["name"]: row["pictures"] for row in data["rows"]}
    page.find_element(By.CSS_SELECTOR, f"#row option[value={json.dumps('fill')}]").click()
    page.find_element(By.CSS_SELECTOR, '#sample option[value="a_1"]').click()
    assert over.get_attribute("src") == data["pictures"][numbers["fill"]["a_1"]["restored"]]
    assert "itself untrained" in texts(page, "#bars caption")[0]
    assert "no samples.json" in texts(page, "#extremes")[0]
    link = page.find_element(By.CSS_SELECTOR, f"#table tr[data-row={json.dumps(ODD)}] th a")
    link.send_keys(Keys.ENTER)
    assert page.find_element(By.ID, "row").get_property("value") == ODD
    bars = [text.split() for text in texts(page, "#bars tbody tr")]
    assert ["road", "95.0", "90.0", "▲", "5.0"] in bars
    assert ["car", "12.5", "25.0", "▼", "12.5"] in bars
    assert ["train", "-", "-", "-"] in bars
    places = texts(page, "#extremes h4")
    assert places[0] == f"Worst 1 {ODD_KEY}"
    assert [place.split()[-1] for place in places[4:]] == ["s8", "s7", "s6", "s5"]
    look = page.find_element(By.CSS_SELECTOR, "#extremes .look")
    look.send_keys(Keys.ENTER)
    assert page.find_element(By.ID, "sample").get_property("value") == ODD_KEY


def test_curves_are_read_by_keyboard(page: Driver) -> None:
    chart = page.find_element(By.CSS_SELECTOR, "#curves .chart")  # of the first trained row's task
    assert chart.find_element(By.TAG_NAME, "h4").text == "ce · logarithmic"

    def legend() -> list[str]:
        return [line.text for line in chart.find_elements(By.CSS_SELECTOR, ".legend li")]

    assert legend() == ["CE\n0.05 to 0.07", "CE+L1\n0.03"]
    chart.find_element(By.TAG_NAME, "svg").send_keys(Keys.HOME)
    assert chart.find_element(By.CLASS_NAME, "where").text == "after 100 images"
    assert legend() == ["CE\n2", "CE+L1\n1.5"]
    assert len(chart.find_elements(By.CSS_SELECTOR, ".series path")) == 3  # a line for each seed


def test_a_grid_that_has_just_begun_is_shown_as_far_as_it_is(
    driver: Driver, tmp_path: Path
) -> None:
    words = tiny_grid(tmp_path)
    cell = cells_of(words)["densify-ce"]
    cell.folder.mkdir(parents=True)
    file = (cell.folder.parent / "table1.html").as_uri()
    main(words)
    driver.get(file)
    assert "as missing: synthesis, densify-none" in texts(driver, "#warnings")[0]
    assert "No run has reported a loss yet." in texts(driver, "#curves")[0]
    for part in ("#looks", "#samples", "#classes"):
        assert "No row that is done" in texts(driver, part)[0]
    train(cell, 2.0, 1.0)
    with open(cell.folder / "metrics.jsonl", "a") as log:
        log.write('\n{"num_images": 200, "evaluation": {"fid": 90.5, "kid": 0.1}}\n')
    main(words)
    driver.get(file)
    assert "as stopped" in texts(driver, "#warnings")[0]
    assert texts(driver, "#curves .legend li")[0] == "CE\n1"
    heads = texts(driver, "#curves h4")  # no row has the distance yet, but the run was evaluated
    assert heads == ["ce", "l1", "evaluations: accu, %", "evaluations: FID"]
    assert driver.get_log("browser") == []


def test_only_rows_of_the_same_input_are_compared(driver: Driver, tmp_path: Path) -> None:
    grid = tmp_path / "table1.yaml"
    grid.write_text(
        "rows:\n"
        "  none: {task: super_resolution, loss: none}\n"
        "  ce: {task: super_resolution, loss: ce}\n"
        "  center: {task: super_resolution, loss: none, degrade: {sampling: center}}\n"
    )
    words = [*tiny_grid(tmp_path), f"grid={grid}"]
    cells = cells_of(words)
    for name, figure in (("none", 0.7), ("ce", 0.8), ("center", 0.95)):
        finish(cells[name], figure, figure)
    assert main(words) == 0
    driver.get((cells["ce"].folder.parent / "table1.html").as_uri())
    assert "10.0 more than the best untrained: none (input as it is), 70.0" in (
        texts(driver, "#best .card")[0].replace("\u00a0", " ")
    )
    assert texts(driver, "#table tr[data-row='ce'] td[data-key='accu'] strong") == ["80.0"]
    assert texts(driver, "#table tr[data-row='center'] td[data-key='accu'] strong") == []
