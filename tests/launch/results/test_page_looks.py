"""The page of report.py in a real browser: on a phone, in the dark, on paper, read aloud."""

from itertools import pairwise

import pytest
from dashboard_page import Driver, emulate, needs_browser
from selenium.webdriver.common.by import By

pytestmark = [pytest.mark.slow, needs_browser]

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
const faint = [];
while (walker.nextNode()) {
  const [text, element] = [walker.currentNode.data.trim(), walker.currentNode.parentElement];
  if (!text || element.closest("script, .frame, option") || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const ink = channels(element.closest("svg") ? style.fill : style.color);
  const [a, b] = [light(ink), light(back(element))].sort((x, y) => y - x);
  if ((a + 0.05) / (b + 0.05) < 4.5) faint.push(`${text}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`);
}
return faint;
"""


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


def test_its_parts_have_names_and_its_headings_an_order(page: Driver) -> None:
    script = """return [...document.querySelectorAll('h1, h2, h3, h4')].filter(
        (head) => head.checkVisibility()).map((head) => Number(head.tagName[1]))"""
    levels = page.execute_script(script)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    nameless = """
        const parts = document.querySelectorAll('button, a, select, input, img, [role=img]');
        return [...parts].filter((part) => part.checkVisibility() && !(part.innerText
          || part.ariaLabel || part.alt || part.labels?.length)).map((part) => part.outerHTML)"""
    assert page.execute_script(nameless) == []
    unscoped = "return document.querySelectorAll('th:not([scope])').length"
    assert page.execute_script(unscoped) == 0
    assert page.execute_script("return document.querySelectorAll('main, header, nav').length") == 3
