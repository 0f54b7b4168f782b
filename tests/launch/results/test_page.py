"""The page of report.py in a real browser, from crafted run folders alone."""

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dashboard_page import Driver, needs_browser, open_page, texts
from finished_cells import cells_of, finish, table_of, tiny_grid
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from launch.grid.cells import Cell
from launch.report import main
from launch.results.page_data import KINDS
from maskrestore.data.labels import LABEL_ID, LABELS
from maskrestore.evaluation.pictures import CAPTIONS
from maskrestore.utils.errors import ConfigError

ODD = "odd <b id=injected>x<b> & '\""
"""Of a row: what HTML takes for something of its own."""
ODD_KEY = '"><img id=injected src=x onerror=document.title=1>'
BREAKS_OUT = "</script><script>document.body.id='injected'</script><!-- <script>"
GRID = """
base: {perceptual: {network: lite0}}
rows:
  synthesis: {task: synthesis}
  none: {task: densify, loss: none}
  fill: {task: densify, loss: none, baseline: fill}
  ce: {task: densify, loss: ce}
  ODD: {task: densify, loss: ce_l1}
  lost: {task: densify, loss: ce_vgg}
  smaller: {task: super_resolution, loss: none, degrade: {sampling: center}}
"""


def measure(cell: Cell, **metrics: Any) -> None:
    """Put more figures into a result."""
    path = cell.folder / "result.json"
    result = json.loads(path.read_text())
    result["metrics"] |= metrics
    path.write_text(json.dumps(result))


def draw(cell: Cell, *keys: str) -> None:
    """Pictures of a cell: the input and the truth are those of every row, the others its own."""
    (cell.folder / "pictures").mkdir(parents=True)
    own = sum(cell.name.encode()) % 200
    for number, key in enumerate(keys):
        for kind in CAPTIONS:
            shade = own if kind in ("restored", "synthesized") else 10 * number
            picture = Image.new("RGB", (64, 32), (shade, 90, 90))
            if "mask" in CAPTIONS[kind]:
                picture.paste(LABELS[LABEL_ID["road"]].color, (0, 16, 64, 32))
            picture.save(cell.folder / "pictures" / f"{key}_{kind}.png")


def train(cell: Cell, *ends: float) -> None:
    """metrics.jsonl of a run whose cross entropy falls to the last of `ends`; NaN is left by some
    runs, and half a line by those that were killed."""
    lines: list[dict[str, Any]] = [
        {"num_images": 100 * number, "losses": {"ce": end, "l1": 0.5}}
        for number, end in enumerate(ends, 1)
    ]
    lines.append({"num_images": 100 * len(ends), "evaluation": {"accu": 0.5, "miou19": None}})
    lines[0]["losses"]["l1"] = float("nan")
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (cell.folder / "metrics.jsonl").write_text(text + '{"num_images": 9')


def resample(cell: Cell, low: float, high: float, falls: bool = False) -> None:
    """resamples.json of a run with this interval of accu."""
    accus = [low + (high - low) * (number - 1) / 38 for number in range(41)]
    content = {"images": "same", "figures": {"accu": accus[::-1] if falls else accus}}
    (cell.folder / "resamples.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A grid of rows with and without pictures, intervals, seeds, curves and results."""
    folder = tmp_path_factory.mktemp("page_in_a_folder_whose_name_is_longer_than_a_phone_is_wide")
    grid = folder / "table1.yaml"
    grid.write_text(GRID.replace("ODD", json.dumps(ODD)))
    words = [*tiny_grid(folder), f"grid={grid}", "seeds=2"]
    cells = cells_of(words)
    finish(cells["synthesis"], None, None, fid=91.25)
    finish(cells["none"], 0.672, 0.332)
    finish(cells["fill"], 0.871, 0.487)
    finish(cells["ce"], 0.86, 0.5)
    finish(cells["ce-seed1"], 0.88, 0.51)
    finish(cells[ODD], 0.8768, 0.4321, source=BREAKS_OUT)
    finish(cells["smaller"], 0.8, 0.6)
    for name in ("none", "fill", ODD):
        accu = json.loads((cells[name].folder / "result.json").read_text())["metrics"]["accu"]
        ends = {"accu": [accu - 0.0126, accu + 0.0134]}
        measure(cells[name], intervals=ends, accu19=accu + 0.02, boundary_f3=0.4567)
        # The trained row is good where the untrained one is bad: their difference is far from sure.
        resample(cells[name], *ends["accu"], falls=name == ODD)
    for name, accu in (("ce", 0.86), ("ce-seed1", 0.88)):
        resample(cells[name], accu - 0.0126, accu + 0.0134)
    measure(cells["fill"], iou={"road": 0.9, "train": None, "car": 0.25})
    measure(cells[ODD], iou={"road": 0.95, "train": None, "car": 0.125}, ece=0.031)
    by_kind = {"drop": {"accu": 0.7, "accu19": 0.71, "miou19": None, "num_samples": 3}}
    measure(cells[ODD], by_degradation=by_kind)
    for name in ("synthesis", "none", "fill", "ce", ODD):
        draw(cells[name], "a_1", ODD_KEY)
    samples = [{"key": f"s{n}", "accu": 0.5 + n / 20, "miou19": None} for n in range(9)]
    samples.append({"key": ODD_KEY, "accu": 0.1, "miou19": 0.25, "boundary_f3": 0.5})
    (cells[ODD].folder / "samples.json").write_text(json.dumps(samples))
    train(cells["ce"], 2.0, 0.1, 0.05)
    train(cells["ce-seed1"], 2.0, 0.1, 0.07)
    train(cells[ODD], 1.5, 0.03)
    assert main(words) == 0
    return words


@pytest.fixture(scope="module")
def path(words: list[str]) -> Path:
    return cells_of(words)["ce"].folder.parent / "table1.html"


@pytest.fixture(scope="module")
def driver(path: Path) -> Iterator[Driver]:
    with open_page(path.as_uri(), width=1280) as driver:
        yield driver


@pytest.fixture
def page(driver: Driver) -> Iterator[Driver]:
    """The page as it opens, by light, on a wide screen; its console stays empty."""
    emulate(driver, 1280, "light")
    driver.refresh()
    yield driver
    assert driver.get_log("browser") == []


def emulate(driver: Driver, width: int, scheme: str) -> None:
    """A screen so wide, and what its user prefers."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def data_of(path: Path) -> dict[str, Any]:
    """What the page was given to draw."""
    found = re.search(r'<script id="data"[^>]*>([^<]*)</script>', path.read_text())
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def result_of(words: list[str], name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((cells_of(words)[name].folder / "result.json").read_text())
    return result


def test_texts_stay_texts_and_nothing_refers_to_elsewhere(path: Path) -> None:
    text = path.read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|\bimport\b|https?://(?!www\.w3)", text
    )
    assert ODD_KEY not in text
    assert any(BREAKS_OUT in value for fact in data_of(path)["made"] for value, _ in fact["values"])


def test_each_picture_is_held_once_and_masks_exactly(words: list[str], path: Path) -> None:
    data = data_of(path)
    rows = {row["name"]: row["pictures"] for row in data["rows"]}
    same = {row["a_1"]["input"] for row in rows.values() if row}
    assert len(same) == 1
    assert rows["ce"]["a_1"]["restored"] != rows["none"]["a_1"]["restored"]
    uris = data["pictures"]
    assert len(set(uris)) == len(uris) == path.read_text().count("base64,") - 1  # and the icon
    for kind in ("restored", "true_mask"):
        uri = data["pictures"][rows["ce"]["a_1"][kind]]
        embedded = io.BytesIO(base64.b64decode(uri.partition(",")[2]))
        file = cells_of(words)["ce"].folder / "pictures" / f"a_1_{kind}.png"
        with Image.open(embedded) as shown, Image.open(file) as drawn:
            assert shown.convert("RGB").tobytes() == drawn.tobytes()
    assert data["pictureClasses"][rows["ce"]["a_1"]["true_mask"]] == ["road"]


def test_kinds_of_pictures_are_called_as_in_the_run_folders() -> None:
    assert KINDS == CAPTIONS


def test_format_says_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tiny_grid(tmp_path)
    folder = tmp_path / "runs" / "tiny-table1"
    finish(cells_of(words)["densify-ce"], 0.9, 0.9)
    main([*words, "format=html"])
    assert [path.name for path in folder.glob("table1.*")] == ["table1.html"]
    assert capsys.readouterr().out == f"{folder / 'table1.html'}\n"
    assert "format=" not in "".join(data_of(folder / "table1.html")["commands"])
    (folder / "table1.html").unlink()
    main([*words, "format=text"])
    assert {path.suffix for path in folder.glob("table1.*")} == {".md", ".tex", ".csv"}
    main(words)
    assert (folder / "table1.html").is_file()
    with pytest.raises(ConfigError, match="format"):
        main([*words, "format=pdf"])


def test_strict_rows_are_compared_over_the_evaluated_classes(tmp_path: Path) -> None:
    words = [*tiny_grid(tmp_path), "protocol=strict"]
    cells = cells_of(words)
    for name, accu, accu19 in (("fill", 0.8, 0.9), ("ce", 0.85, 0.88), ("ce_l1", 0.7, 0.95)):
        finish(cells[f"densify-{name}"], accu, 0.5 if name == "fill" else 0.6)
        measure(cells[f"densify-{name}"], accu19=accu19, intervals={"accu19": [0.85, 0.97]})
    heads, *rows = table_of(words, tmp_path)
    assert heads[2:4] == ["ours: accu (19)", "ours: mIoU (19)"]
    assert heads[4] == "ours: FID"
    shown = {row[1]: row[2] for row in rows if row[0] == "densification, strict"}
    assert (shown["CE"], shown["CE+L1"]) == ("88.0 †", "95.0")
    folder = tmp_path / "runs" / "tiny-table1"
    assert "accu (19)" in (folder / "table1.tex").read_text()
    assert list(data_of(folder / "table1.html")["headlines"])[:2] == ["accu19", "miou19"]
    with open(folder / "table1.csv", newline="") as file:
        line = next(line for line in csv.DictReader(file) if line["cell"] == "densify-ce")
    assert (line["accu19"], line["accu19_low"], line["accu19_high"]) == ("0.88", "0.85", "0.97")
    assert "intervals" not in "".join(line)


@pytest.mark.slow
@needs_browser
def test_opening_it_asks_for_nothing_and_runs_no_text(page: Driver, path: Path) -> None:
    asked = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in asked if not name.startswith("data:")] == []
    assert page.find_elements(By.ID, "injected") == []
    assert page.title == "Mask restoration: tiny-table1"
    assert ODD in texts(page, "#warnings")[0] or ODD in texts(page, "#made")[0]
    page.find_element(By.CSS_SELECTOR, f"#sample option[value={json.dumps(ODD_KEY)}]")
    images = "return [...document.images].every((image) => image.complete && image.naturalWidth)"
    assert page.execute_script(images)


@pytest.mark.slow
@needs_browser
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


@pytest.mark.slow
@needs_browser
def test_every_figure_is_the_results(page: Driver, words: list[str]) -> None:
    script = """return [...document.querySelectorAll('section td[data-key]')].map((cell) =>
        [cell.closest('tr').dataset.row, cell.dataset.key, cell.innerText])"""
    shown = {(row, key): text.split() for row, key, text in page.execute_script(script)}
    checked = 0
    for row in ("synthesis", "none", "fill", ODD, "smaller"):
        metrics = result_of(words, row)["metrics"]
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
    found: list[str] = page.execute_script(script)
    return found


@pytest.mark.slow
@needs_browser
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


@pytest.mark.slow
@needs_browser
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


@pytest.mark.slow
@needs_browser
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


@pytest.mark.slow
@needs_browser
def test_it_fits_a_phone_and_both_schemes_are_legible(page: Driver) -> None:
    backs = set()
    for width, scheme in ((1280, "light"), (1280, "dark"), (360, "light"), (360, "dark")):
        emulate(page, width, scheme)
        page.refresh()
        hidden = (
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert page.execute_script(hidden) == 0
        assert page.execute_script(CUT) == []
        assert page.execute_script(FAINT) == []
        body = page.find_element(By.TAG_NAME, "body")
        backs.add(body.value_of_css_property("background-color"))
    assert len(backs) == 2


@pytest.mark.slow
@needs_browser
def test_it_prints_whole_on_white(page: Driver) -> None:
    emulate(page, 1030, "light")  # a landscape page of A4 inside its margins
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    for selector in (".scroll", "html"):
        script = """const part = document.querySelector(arguments[0]);
            return [part.scrollWidth, part.clientWidth]"""
        needed, given = page.execute_script(script, selector)
        assert needed <= given, selector
    assert not page.find_element(By.CSS_SELECTOR, ".slider").is_displayed()
    assert all(part.get_attribute("open") for part in page.find_elements(By.TAG_NAME, "details"))
    body = page.find_element(By.TAG_NAME, "body")
    assert body.value_of_css_property("background-color") == "rgba(255, 255, 255, 1)"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


CUT = """return [...document.querySelectorAll("svg text")].filter((text) =>
    text.getBoundingClientRect().left < text.ownerSVGElement.getBoundingClientRect().left)
    .map((text) => text.textContent)"""
"""Words of a drawing that begin to the left of it."""

FAINT = """
const channels = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (color) => {
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = color.slice(0, 3).map((v) => linear(v / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const back = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const color = channels(getComputedStyle(at).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
  return [255, 255, 255];
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
while (walker.nextNode()) {
  const [text, element] = [walker.currentNode.data.trim(), walker.currentNode.parentElement];
  if (!text || element.closest("script, .frame, option") || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const ink = channels(element.closest("svg") ? style.fill : style.color);
  const [a, b] = [light(ink), light(back(element))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${text}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
}
return found;
"""


@pytest.mark.slow
@needs_browser
def test_its_parts_have_names_and_its_headings_an_order(page: Driver) -> None:
    script = """return [...document.querySelectorAll('h1, h2, h3, h4')].filter(
        (head) => head.checkVisibility()).map((head) => Number(head.tagName[1]))"""
    levels = page.execute_script(script)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    nameless = """
        const found = document.querySelectorAll('button, a, select, input, img, [role=img]');
        return [...found].filter((each) => each.checkVisibility() && !(each.innerText
          || each.ariaLabel || each.alt || each.labels?.length)).map((each) => each.outerHTML)"""
    assert page.execute_script(nameless) == []
    unscoped = "return document.querySelectorAll('th:not([scope])').length"
    assert page.execute_script(unscoped) == 0
    assert page.execute_script("return document.querySelectorAll('main, header, nav').length") == 3


@pytest.mark.slow
@needs_browser
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
    main(words)
    driver.get(file)
    assert "as stopped" in texts(driver, "#warnings")[0]
    assert texts(driver, "#curves .legend li")[0] == "CE\n1"
    assert driver.get_log("browser") == []


@pytest.mark.slow
@needs_browser
def test_only_rows_of_the_same_input_are_compared(tmp_path: Path) -> None:
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
    with open_page((cells["ce"].folder.parent / "table1.html").as_uri(), width=1280) as page:
        assert "10.0 more than the best untrained: none (input as it is), 70.0" in (
            texts(page, "#best .card")[0].replace("\u00a0", " ")
        )
        assert texts(page, "#table tr[data-row='ce'] td[data-key='accu'] strong") == ["80.0"]
        assert texts(page, "#table tr[data-row='center'] td[data-key='accu'] strong") == []
