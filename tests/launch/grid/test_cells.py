"""Grid files: which cells they stand for, and what is said about mistakes in them."""

from pathlib import Path

import pytest
from grid_files import cells_of, config, grid_file, refused

from launch.grid.cells import GridSettings, read_grid, read_restoration
from launch.results.names import loss_name, task_name
from maskrestore.config.settings import CONFIGS

__all__ = ["config"]  # a fixture


def test_table1_holds_the_papers_rows_the_untrained_baselines_and_ours(config: str) -> None:
    cells = cells_of(config)
    ours = {name: cells.pop(name).config for name in list(cells) if name.endswith("ours")}
    assert {(c.task, c.condition) for c in ours.values()} == {
        (task, condition)
        for task in ("densify", "super_resolution")
        for condition in ("mask", "mask_image")
    }
    rows = {
        (c.config.task, c.config.loss, c.config.baseline, c.config.degrade.sampling)
        for c in cells.values()
    }
    losses = ["none", "ce_vgg_l1", "ce", "ce_vgg", "ce_l1"]
    assert rows == {
        ("synthesis", "ce_vgg_l1", "input", "corner"),
        *(("densify", loss, "input", "corner") for loss in losses),
        *(("super_resolution", loss, "input", "corner") for loss in losses),
        ("densify", "none", "fill", "corner"),
        ("super_resolution", "none", "realign", "corner"),
        ("super_resolution", "none", "bilinear", "corner"),
        ("densify", "none", "random_walker", "corner"),
        ("super_resolution", "none", "random_walker", "corner"),
        ("super_resolution", "none", "input", "center"),
    }


@pytest.mark.parametrize(
    "name",
    sorted(p.stem for p in (CONFIGS / "grid").glob("*.yaml") if read_restoration(p) is None),
)
def test_every_grid_has_untrained_rows_beside_the_trained_and_tells_its_rows_apart(
    name: str,
) -> None:
    more = ["teacher=runs/restorer"] if name == "downstream" else []
    configs = [cell.config for cell in cells_of(f"grid={name}", *more).values()]
    restoring = [config for config in configs if config.task != "synthesis"]
    inputs = [(c.task, c.degradation, c.degrade) for c in restoring if not c.trains]
    assert restoring
    for cell in restoring:
        assert (cell.task, cell.degradation, cell.degrade) in inputs
    names = [(task_name(config), loss_name(config)) for config in configs]
    assert len(set(names)) == len(names)


def test_the_strict_protocol_is_every_rows(config: str, tmp_path: Path) -> None:
    cells = cells_of(config, "protocol=strict").values()
    assert {cell.config.degrade.sampling for cell in cells if cell.config.task != "synthesis"} == {
        "center"
    }
    assert {loss_name(cell.config) for cell in cells if cell.config.baseline != "input"} == {
        "none (nearest label)",
        "none (realigned)",
        "none (bilinear)",
        "none (random walker)",
    }
    first, second = refused(config, "grid=ablation_edges", "protocol=strict")
    assert "cell densify-upper_bound: protocol=strict allows no true edges" in first
    assert "cell super_resolution-upper_bound: " in second


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
