"""Grid files for tests, and the cells or complaints that come of them."""

from pathlib import Path

import pytest

from launch.grid.cells import Cell, GridSettings, read_grid
from maskrestore.utils.errors import ConfigError


def cells_of(*words: str) -> dict[str, Cell]:
    _, grid = read_grid(GridSettings, words)
    return {cell.name: cell for cell in grid.cells}


def refused(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_grid(GridSettings, words)
    return str(caught.value).splitlines()


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text("training: {num_images: 8, batch_size: 4}\ndistributed: {device: cpu}\n")
    return f"config={path}"


def grid_file(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text)
    return f"grid={path}"
