"""What the rows of a table are called, and with what they are compared."""

from pathlib import Path

import pytest
from finished_cells import finish

from launch.grid.cells import GridSettings, read_grid
from launch.results.gains import gain
from launch.results.names import loss_name, paper_figures, task_name
from launch.results.table_rows import Row, read_rows
from maskrestore.config.run import load_config

CE = ["task=densify", "loss=ce"]
SUM = ["task=densify", "loss=ce_vgg_l1"]
SMALL = ["task=super_resolution", "loss=ce"]


@pytest.mark.parametrize(
    ("words", "task", "loss"),
    [
        (SUM, "densification", "CE+VGG+L1"),
        ([*SUM, "weights.perceptual=0.1"], "densification", "CE+0.1 VGG+L1"),
        ([*SUM, "weights.perceptual=0"], "densification", "CE+L1"),
        ([*SUM, "generator.edges=zeros"], "densification", "CE+VGG+L1 (no edges)"),
        (
            [*SUM, "generator.edges=instance", "relaxation=gumbel", "condition=mask_image"],
            "densification",
            "CE+VGG+L1 (image-conditioned, Gumbel, upper bound: true edges)",
        ),
        ([*CE, "relaxation=gumbel", "image_loss.start=0.5"], "densification", "CE"),  # no image
        (
            [*SUM, "image_loss.start=0.5", "image_loss.pixels=unannotated"],
            "densification",
            "CE+VGG+L1 (image terms from 50%, image terms where nobody annotated)",
        ),
        (
            [*SUM, "image_loss.gradient=0.1"],
            "densification",
            "CE+VGG+L1 (image gradient 0.1 of CE's)",
        ),
        ([*CE, "data.num_true_masks=10"], "densification", "CE (10 true masks)"),
        ([*CE, "weights.lovasz=0.5"], "densification", "CE+0.5 Lovasz"),
        ([*CE, "data.crop=64x64"], "densification", "CE (crops of 64x64)"),
        (
            [*CE, "weights.class_balance=0.5", "condition=image", "mask_generator.start=input"],
            "densification",
            "CE (image alone, started from the input, classes balanced, 0.5)",
        ),
        (
            [*CE, "condition=mask_image", "mask_generator.image_features=none"],
            "densification",
            "CE (image-conditioned, its colours alone)",
        ),
        (
            ["task=densify", "loss=none", "baseline=random_walker", "weights.class_balance=0.5"],
            "densification",
            "none (random walker)",
        ),
        ([*CE, "degradation=labels"], "densification (label errors)", "CE"),
        ([*CE, "degrade.sampling=center"], "densification", "CE"),  # nothing is sampled
        (
            [*CE, "degrade.sampling=center", "degradation=mixture"],
            "densification (mixture)",
            "CE (centre-sampled)",
        ),
        (
            [*CE, "degrade.sampling=center", "degradation=smaller_16"],
            "densification (16x smaller)",
            "CE (centre-sampled)",
        ),
        ([*SMALL, "degrade.sampling=center"], "super-resolution 8x", "CE (centre-sampled)"),
        ([*SMALL, "protocol=strict", "degrade.factor=4"], "super-resolution 4x, strict", "CE"),
        (
            ["task=super_resolution", "loss=none", "baseline=bilinear", "condition=mask_image"],
            "super-resolution 8x",
            "none (bilinear)",
        ),
        (["task=synthesis", "generator.edges=soft"], "synthesis", "-"),
    ],
)
def test_rows_are_called_by_what_is_not_the_papers(words: list[str], task: str, loss: str) -> None:
    config = load_config(words)
    assert (task_name(config), loss_name(config)) == (task, loss)


def test_the_paper_is_quoted_for_its_own_experiments_alone() -> None:
    nothing = (None, None, None)
    of_ce = paper_figures(load_config(CE))
    assert of_ce == (86.1, 42.1, 70.7)
    for word in (
        "protocol=strict",
        "degradation=drop",
        "condition=mask_image",
        "relaxation=gumbel",
        "generator.edges=soft",
        "weights.ce=2",
        "weights.class_balance=0.5",
        "image_loss.gradient=1",
        "data.num_true_masks=10",
    ):
        assert paper_figures(load_config([*CE, word])) == nothing, word
    # What is not in the row changes nothing.
    for word in ("weights.perceptual=10", "degrade.factor=4", "degrade.sampling=center"):
        assert paper_figures(load_config([*CE, word])) == of_ce, word
    untrained = ["task=densify", "loss=none", "condition=mask_image", "weights.ce=2"]
    assert paper_figures(load_config(untrained)) == (68.5, 39.4, 157.7)
    assert paper_figures(load_config([*SUM, "weights.l1=0"])) == nothing  # CE+VGG, but asked as sum
    synthesis = ["task=synthesis", "protocol=strict", "generator.edges=soft"]
    assert paper_figures(load_config(synthesis)) == (None, None, 62.9)


def gained(rows: dict[str, Row], name: str, key: str) -> float | None:
    margin = gain(rows[name], list(rows.values()), key)
    return None if margin is None else margin.value


def test_a_trained_row_is_compared_with_untrained_ones_of_the_same_damage(tmp_path: Path) -> None:
    words = ["grid=robustness", f"runs={tmp_path}"]
    cells = {cell.name: cell for cell in read_grid(GridSettings, words)[1].cells}
    finish(cells["scribbles-ce"], 0.6, 0.6)
    finish(cells["scribbles-fill"], 0.5, 0.5)
    finish(cells["boundary-none"], 0.9, 0.9)
    finish(cells["densify-none"], 0.9, 0.9)
    rows = {row.name: row for row in read_rows(read_grid(GridSettings, words)[1])}
    assert gained(rows, "scribbles-ce", "accu") == pytest.approx(0.1)
    finish(cells["scribbles-none"], 0.7, 0.5)
    rows = {row.name: row for row in read_rows(read_grid(GridSettings, words)[1])}
    assert gained(rows, "scribbles-ce", "accu") == pytest.approx(-0.1)
    assert gained(rows, "scribbles-ce", "miou19") == pytest.approx(0.1)


def test_what_sees_the_image_is_no_rival_of_what_does_not(tmp_path: Path) -> None:
    path = tmp_path / "seeing.yaml"
    path.write_text(
        "rows:\n"
        "  fill: {task: densify, loss: none, baseline: fill}\n"
        "  walker: {task: densify, loss: none, baseline: random_walker}\n"
        "  blind: {task: densify, loss: ce}\n"
        "  seeing: {task: densify, loss: ce, condition: mask_image}\n"
        "  alone: {task: densify, loss: ce, condition: image}\n"
    )
    words = [f"grid={path}", f"runs={tmp_path}"]
    cells = {cell.name: cell for cell in read_grid(GridSettings, words)[1].cells}
    for name, accu in (("fill", 0.5), ("walker", 0.6), ("blind", 0.7), ("seeing", 0.8)):
        finish(cells[name], accu, 0.5)
    finish(cells["alone"], 0.55, 0.5)
    rows = {row.name: row for row in read_rows(read_grid(GridSettings, words)[1])}
    assert gained(rows, "blind", "accu") == pytest.approx(0.2)
    assert gained(rows, "seeing", "accu") == pytest.approx(0.2)
    assert gained(rows, "alone", "accu") == pytest.approx(-0.05)


def test_rows_of_both_protocols_are_told_apart_and_compared_where_the_input_is_the_same(
    tmp_path: Path,
) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(
        "rows:\n"
        "  fill: {task: densify, loss: none, baseline: fill}\n"
        "  strict-ce: {task: densify, loss: ce, protocol: strict}\n"
        "  none: {task: super_resolution, loss: none}\n"
        "  strict-small-ce: {task: super_resolution, loss: ce, protocol: strict}\n"
    )
    words = [f"grid={path}", f"runs={tmp_path}"]
    for cell in read_grid(GridSettings, words)[1].cells:
        finish(cell, 0.5 if cell.config.trains else 0.9, 0.5)
    rows = {row.name: row for row in read_rows(read_grid(GridSettings, words)[1])}
    assert len({task_name(row.config) for row in rows.values()}) == 4
    assert gained(rows, "strict-ce", "accu") == pytest.approx(-0.4)  # nothing is sampled
    assert gained(rows, "strict-small-ce", "accu") is None  # another input
