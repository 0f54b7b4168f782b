"""Intervals over the val images: of each run, of rows of several seeds, of what training gains."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from finished_cells import cells_of, finish, table_of, tiny_grid
from label_sets import CITYSCAPES

from launch.grid.cells import Cell, GridSettings, read_grid
from launch.results.gains import gain, interval
from launch.results.table import GAINS_TITLE
from launch.results.table_rows import Row, read_rows
from maskrestore.evaluation.segmentation import NUM_RESAMPLES, SegmentationMetrics
from maskrestore.runs.figures import SHARES

STEPS = [number / 1000 for number in range(41)]
"""Their 2.5th and 97.5th percentiles are the second and the last but one."""


def leave(cell: Cell, accus: Sequence[float | None], images: str = "same") -> None:
    """resamples.json, as an evaluation leaves it."""
    content = {"images": images, "figures": {"accu": accus}}
    (cell.folder / "resamples.json").write_text(json.dumps(content))


def rows_of(words: list[str]) -> dict[str, Row]:
    return {row.name: row for row in read_rows(read_grid(GridSettings, words)[1])}


def test_a_resample_is_what_its_samples_give_by_themselves() -> None:
    draw = torch.Generator().manual_seed(1)
    num_samples, shape = 6, (6, 12, 16)
    true = torch.randint(5, 12, shape, generator=draw)
    restored = torch.where(torch.rand(shape, generator=draw) < 0.7, true, 8)
    annotated = torch.rand((num_samples, 1, *shape[1:]), generator=draw) < 0.5
    confidence = torch.rand(shape, generator=draw)
    keys = [f"key{number}" for number in range(num_samples)]
    metric = SegmentationMetrics(CITYSCAPES)
    metric.update(keys, restored, true, annotated, confidence)
    figures = metric.compute()
    resampled = metric.resamples["figures"]
    assert list(resampled) == list(SHARES)
    drawn = torch.randint(
        num_samples, (NUM_RESAMPLES, num_samples), generator=torch.Generator().manual_seed(0)
    )
    for number in (0, 1, 999):
        chosen = drawn[number]
        plain = SegmentationMetrics(CITYSCAPES)
        plain.update(keys, restored[chosen], true[chosen], annotated[chosen], confidence[chosen])
        expected = plain.compute()
        for name in SHARES:
            assert resampled[name][number] == pytest.approx(expected[name], rel=1e-8), name
    for name, ends in figures["intervals"].items():
        values = torch.tensor(resampled[name], dtype=torch.float64)
        quantiles = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        assert ends == pytest.approx(quantiles, rel=1e-8), name

    # The same resamples whatever was restored, so that two runs can be compared in each.
    other = SegmentationMetrics(CITYSCAPES)
    other.update(keys[::-1], true.flip(0), true.flip(0), annotated)
    other.compute()
    assert other.resamples["images"] == metric.resamples["images"]
    assert other.resamples["figures"]["accu"] == [1.0] * NUM_RESAMPLES
    assert other.resamples["figures"]["ece"] == [None] * NUM_RESAMPLES
    other.update(["further"], true[:1], true[:1], annotated[:1])
    other.compute()
    assert other.resamples["images"] != metric.resamples["images"]


def test_differences_are_taken_on_the_same_resamples(tmp_path: Path) -> None:
    """Rows whose own intervals overlap can differ for sure, and the other way round."""
    words = [*tiny_grid(tmp_path), "seeds=2"]
    cells = cells_of(words)
    for name, accu in (("none", 0.3), ("fill", 0.6), ("ce", 0.64), ("ce-seed1", 0.62)):
        finish(cells[f"densify-{name}"], accu, 0.5)
    finish(cells["densify-ce_l1"], 0.605, 0.5)
    leave(cells["densify-none"], [0.3] * 41)
    leave(cells["densify-fill"], [0.58 + step for step in STEPS])
    leave(cells["densify-ce"], [0.62 + step for step in STEPS])
    leave(cells["densify-ce-seed1"], [0.60 + step for step in STEPS])
    leave(cells["densify-ce_l1"], [0.605 + 2 * (step - 0.02) for step in STEPS])
    rows = rows_of(words)
    of_ce = gain(rows["densify-ce"], list(rows.values()), "accu")
    assert of_ce is not None
    assert of_ce.rival.name == "densify-fill"
    assert (of_ce.value, of_ce.interval) == (pytest.approx(0.03), pytest.approx((0.03, 0.03)))
    assert of_ce.is_sure
    assert interval(rows["densify-ce"], "accu") == pytest.approx((0.611, 0.649))
    assert interval(rows["densify-fill"], "accu") == pytest.approx((0.581, 0.619))
    of_l1 = gain(rows["densify-ce_l1"], list(rows.values()), "accu")
    assert of_l1 is not None
    assert of_l1.interval == pytest.approx((-0.014, 0.024))
    assert not of_l1.is_sure

    fields = {row[1]: row[3] for row in table_of(words, tmp_path) if row[0] == "densification"}
    assert fields["CE"] == "63.0 ± 1.4"
    assert fields["CE+L1"] == "60.5 ‡"
    text = (tmp_path / "runs/tiny-table1/table1.md").read_text()
    assert "‡ Better than the best untrained row, but not surely" in text
    second = text.partition(GAINS_TITLE)[2]
    lines = [[field.strip() for field in line.split("|")[1:-1]] for line in second.splitlines()]
    assert ["densification", "CE", "+3.0 (+3.0 to +3.0)", "+0.0", "-", "-"] in lines
    assert ["", "CE+L1", "+0.5 (-1.4 to +2.4)", "+0.0", "-", "-"] in lines
    assert r"60.5$^{\ddagger}$" in (tmp_path / "runs/tiny-table1/table1.tex").read_text()


def test_what_was_judged_on_other_images_or_by_older_code_has_no_interval(tmp_path: Path) -> None:
    words = tiny_grid(tmp_path)
    cells = cells_of(words)
    for name, accu in (("fill", 0.6), ("ce", 0.7), ("ce_l1", 0.7), ("ce_vgg", 0.7)):
        finish(cells[f"densify-{name}"], accu, 0.5)
    leave(cells["densify-fill"], [0.58 + step for step in STEPS])
    leave(cells["densify-ce"], [0.68 + step for step in STEPS], images="fewer")
    (cells["densify-ce_vgg"].folder / "resamples.json").write_text("[1, 2")
    rows = rows_of(words)
    for name in ("ce", "ce_l1", "ce_vgg"):
        margin = gain(rows[f"densify-{name}"], list(rows.values()), "accu")
        assert margin is not None
        assert (margin.value, margin.interval) == (pytest.approx(0.1), None)
    assert interval(rows["densify-ce_l1"], "accu") is None


def test_a_mean_that_one_seed_alone_lifts_is_not_sure(tmp_path: Path) -> None:
    """However narrow the interval over images is."""
    words = [*tiny_grid(tmp_path), "seeds=3"]
    cells = cells_of(words)
    for name, accu in (("fill", 0.6), ("ce", 0.7), ("ce-seed1", 0.599), ("ce-seed2", 0.61)):
        finish(cells[f"densify-{name}"], accu, 0.5)
        leave(cells[f"densify-{name}"], [accu + step for step in STEPS])
    rows = rows_of(words)
    margin = gain(rows["densify-ce"], list(rows.values()), "accu")
    assert margin is not None
    assert margin.interval is not None
    assert margin.interval[0] > 0.03
    assert margin.seeds == pytest.approx((0.1, -0.001, 0.01))
    assert not margin.is_sure
    fields = {row[1]: row[3] for row in table_of(words, tmp_path) if row[0] == "densification"}
    assert fields["CE"].endswith(" ‡")


def test_a_resample_without_the_figure_is_left_out(tmp_path: Path) -> None:
    words = tiny_grid(tmp_path)
    cells = cells_of(words)
    finish(cells["densify-ce"], 0.7, 0.5)
    leave(cells["densify-ce"], [None, *STEPS, None])
    assert interval(rows_of(words)["densify-ce"], "accu") == pytest.approx((0.001, 0.039))
