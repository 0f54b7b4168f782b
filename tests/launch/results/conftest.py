"""One report, and one browser that shows it, for all tests of the page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dashboard_page import Driver, emulate, open_page
from finished_cells import cells_of
from report_page import rich_grid

from launch.report import main


@pytest.fixture(scope="session")
def rich_words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words of a grid that is reported."""
    name = "page_in_a_folder_whose_name_is_longer_than_a_phone_is_wide"
    words = rich_grid(tmp_path_factory.mktemp(name))
    assert main(words) == 0
    return words


@pytest.fixture(scope="session")
def path(rich_words: list[str]) -> Path:
    """Its page."""
    return cells_of(rich_words)["ce"].folder.parent / "table1.html"


@pytest.fixture(scope="session")
def driver(path: Path) -> Iterator[Driver]:
    with open_page(path.as_uri(), width=1280) as driver:
        yield driver


@pytest.fixture
def page(driver: Driver, path: Path) -> Iterator[Driver]:
    """The page as it opens, by light, on a wide screen; its console stays empty."""
    emulate(driver, 1280, "light")
    driver.get(path.as_uri())
    yield driver
    assert driver.get_log("browser") == []
