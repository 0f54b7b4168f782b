"""Grid files: which cells they stand for, and what is said about mistakes in them."""

from pathlib import Path

import pytest

from launch.grid import Cell, GridSettings, read_grid
from maskrestore.settings import ConfigError


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


def test_table1_holds_the_papers_rows_and_the_untrained_baselines(config: str) -> None:
    rows = {
        (c.config.task, c.config.loss, c.config.baseline, c.config.degrade.sampling)
        for c in cells_of(config).values()
    }
    losses = ["none", "ce_vgg_l1", "ce", "ce_vgg", "ce_l1"]
    assert rows == {
        ("synthesis", "ce_vgg_l1", "input", "corner"),
        *(("densify", loss, "input", "corner") for loss in losses),
        *(("super_resolution", loss, "input", "corner") for loss in losses),
        ("densify", "none", "fill", "corner"),
        ("super_resolution", "none", "realign", "corner"),
        ("super_resolution", "none", "input", "center"),
    }


def test_cells_lie_in_the_folder_of_config_and_grid(config: str, tmp_path: Path) -> None:
    _, grid = read_grid(GridSettings, [config, f"runs={tmp_path}"])
    assert grid.folder == tmp_path / "tiny-table1"
    assert all(cell.folder == grid.folder / cell.name for cell in grid.cells)


def test_without_config_the_demo_is_run() -> None:
    _, grid = read_grid(GridSettings, [])
    assert grid.folder == Path("runs/demo-table1")


def test_words_reach_every_cell_and_beat_the_config_file(config: str) -> None:
    cells = cells_of(config, "training.num_images=16").values()
    assert {cell.config.training.num_images for cell in cells} == {16}
    assert {cell.config.training.batch_size for cell in cells} == {4}


def test_a_row_beats_a_word(config: str) -> None:
    cells = cells_of(config, "degrade.sampling=corner", "degrade.factor=4")
    degrade = cells["super_resolution-center-none"].config.degrade
    assert (degrade.sampling, degrade.factor) == ("center", 4)


def test_deepspeed_is_for_the_restoring_cells(config: str) -> None:
    """Two networks are trained in the synthesis cell, which DeepSpeed does not do."""
    words = ["distributed.engine=deepspeed", "distributed.zero_stage=2"]
    _, grid = read_grid(GridSettings, [config, *words])
    engines = {cell.name: cell.config.distributed.engine for cell in grid.cells}
    assert engines.pop("synthesis") == "ddp"
    assert set(engines.values()) == {"deepspeed"}


def test_restoring_cells_use_the_generator_that_the_grid_trains(config: str) -> None:
    _, grid = read_grid(GridSettings, [config])
    first = grid.generator_cell
    assert first is not None
    assert first.config.generator.path is None
    paths = {cell.config.generator.path for cell in grid.cells if cell is not first}
    assert paths == {first.folder / "generator.pth"}


def test_a_given_generator_is_only_evaluated(config: str) -> None:
    _, grid = read_grid(GridSettings, [config, "generator.path=latest_net_G.pth"])
    assert grid.generator_cell is None
    synthesis = next(cell for cell in grid.cells if cell.name == "synthesis").config
    assert not synthesis.trains
    assert {cell.config.generator.path for cell in grid.cells} == {Path("latest_net_G.pth")}


def test_a_saved_config_of_one_run_serves_all_cells(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("task: densify\nloss: none\nbaseline: fill\nrun: runs/old\nseed: 3\n")
    cells = cells_of(f"config={path}")
    assert cells["synthesis"].config.trains
    assert cells["super_resolution-ce"].config.seed == 3


def test_base_lies_under_every_row(config: str, tmp_path: Path) -> None:
    grid = grid_file(
        tmp_path,
        "base: {task: densify, training: {batch_size: 2}}\n"
        "rows:\n  a: {loss: ce}\n  b: {loss: ce, training: {batch_size: 1}}\n",
    )
    cells = cells_of(config, grid)
    assert [cell.config.task for cell in cells.values()] == ["densify", "densify"]
    assert [cell.config.training.batch_size for cell in cells.values()] == [2, 1]
    assert [cell.config.training.num_images for cell in cells.values()] == [8, 8]


def test_all_wrong_words_are_reported_at_once(config: str) -> None:
    lines = refused(config, "gird=table1", "training.batchsize=3", "task=densify", "seed=x", "word")
    text = "\n".join(lines)
    assert len(lines) == 5
    assert "gird: no such setting; did you mean grid?" in lines
    assert "training.batchsize: no such setting; did you mean batch_size?" in lines
    assert "task: set by the rows" in text
    assert "seed: " in text
    assert "word: write key=value" in text


def test_wrong_cells_are_named_with_their_keys(config: str, tmp_path: Path) -> None:
    grid = grid_file(
        tmp_path,
        "rows:\n  good: {task: densify}\n  first: {task: densfy}\n"
        "  second: {task: densify, training: {batch_sise: 2}}\n",
    )
    lines = refused(config, grid)
    assert len(lines) == 2
    assert lines[0].startswith("mine.yaml: cell first: task: ")
    assert lines[1].startswith("mine.yaml: cell second: training.batch_sise: ")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rows: {}\n", ["rows"]),
        ("rows: {empty: null, good: {task: densify}}\n", ["empty"]),
        ("rows: {bad: {task: densify, data: 3}, good: {task: densify}}\n", ["cell bad: data=3"]),
        ("rows: {bad: {task: densify, generator: 3}}\n", ["cell bad: generator"]),
        ("base: {data: 3}\nrows: {one: {}, two: {}}\n", ["cell one: data=3", "cell two: data=3"]),
    ],
)
def test_rows_of_a_wrong_form_are_named(
    config: str, tmp_path: Path, text: str, parts: list[str]
) -> None:
    lines = refused(config, "data.flip=false", grid_file(tmp_path, text))
    assert len(lines) == len(parts)
    for line, part in zip(lines, parts, strict=True):
        assert line.startswith("mine.yaml: ")
        assert part in line


def test_a_row_may_have_its_own_generator(config: str, tmp_path: Path) -> None:
    text = (
        "rows:\n  first: {task: synthesis}\n  a: {task: densify}\n"
        "  b: {task: densify, generator: {path: other.pth}}\n"
    )
    _, grid = read_grid(GridSettings, [config, grid_file(tmp_path, text), "generator.edges=soft"])
    first, a, b = grid.cells
    assert grid.generator_cell is first
    assert a.config.generator.path == first.folder / "generator.pth"
    assert b.config.generator.path == Path("other.pth")
    assert {cell.config.generator.edges for cell in grid.cells} == {"soft"}


def test_a_generator_in_base_is_only_evaluated(config: str, tmp_path: Path) -> None:
    text = (
        "base: {generator: {path: other.pth}}\n"
        "rows: {first: {task: synthesis}, a: {task: densify}}\n"
    )
    _, grid = read_grid(GridSettings, [config, grid_file(tmp_path, text)])
    assert grid.generator_cell is None
    assert [cell.config.generator.path for cell in grid.cells] == [Path("other.pth")] * 2


def test_an_unknown_grid_is_answered_with_the_known_ones(config: str) -> None:
    assert "table1" in refused(config, "grid=tabel1")[0]
