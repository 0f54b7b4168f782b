"""The catalogue of figures: it names what is computed, and all who show a figure ask it."""

from pathlib import Path

import pytest
import torch
from finished_cells import cells_of, finish, tiny_grid
from label_sets import CITYSCAPES

from launch.grid.run_here import summary
from maskrestore.evaluation.counts import figures, sizes
from maskrestore.evaluation.image_distances import DISTANCE_NAMES
from maskrestore.runs.figures import (
    DISTANCES,
    FIGURES,
    HEADLINES,
    IN_SHORT,
    KIND_FIGURES,
    SAMPLE_FIGURES,
    SHARES,
)


def test_it_names_what_is_computed_and_nothing_else() -> None:
    assert (
        tuple(figures(CITYSCAPES, torch.zeros(sum(sizes(CITYSCAPES)), dtype=torch.float64)))
        == SHARES
    )
    assert tuple(name for names in DISTANCE_NAMES.values() for name in names) == DISTANCES
    keys = {*SAMPLE_FIGURES, *KIND_FIGURES, *IN_SHORT, *HEADLINES["paper"], *HEADLINES["strict"]}
    assert keys <= FIGURES.keys()
    assert all(FIGURES[key].short for key in IN_SHORT)
    assert len({figure.name for figure in FIGURES.values()}) == len(FIGURES)


@pytest.mark.parametrize(
    ("key", "numbers", "text"),
    [
        ("accu", (0.8768,), "87.7"),
        ("miou19", (0.43, 0.03), "43.0 ± 3.0"),
        ("fid", (91.25,), "91.2"),
        ("fid", (9.99, 0.5), "9.9900 ± 0.5000"),
        ("kid", (-0.00123,), "-0.0012"),
        ("accu", (float("nan"),), "nan"),
    ],
)
def test_shares_are_in_percent_and_small_distances_have_four_decimals(
    key: str, numbers: tuple[float, ...], text: str
) -> None:
    assert FIGURES[key].text(*numbers) == text


def test_the_queue_says_a_cell_in_a_line(tmp_path: Path) -> None:
    cell = cells_of(tiny_grid(tmp_path))["densify-ce"]
    finish(cell, 0.8768, None, fid=80.0)
    assert summary(cell) == "accu 87.7  FID 80.0"
