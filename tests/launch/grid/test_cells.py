"""Grid files: which cells they stand for, and what is said about mistakes in them."""

from pathlib import Path

import pytest

from launch.grid.cells import Cell, GridSettings, read_grid, read_restoration
from launch.results.names import loss_name, task_name
from maskrestore.config.settings import CONFIGS
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
        ("super_resolution", "none", "bilinear", "corner"),
        ("super_resolution", "none", "input", "center"),
    }


@pytest.mark.parametrize(
    "name",
    sorted(p.stem for p in (CONFIGS / "grid").glob("*.yaml") if read_restoration(p) is None),
)
def test_every_grid_has_untrained_rows_beside_the_trained_and_tells_its_rows_apart(
    name: str,
) -> None:
    configs = [cell.config for cell in cells_of(f"grid={name}").values()]
    restoring = [config for config in configs if config.task != "synthesis"]
    inputs = [(c.task, c.degradation, c.degrade) for c in restoring if not c.trains]
    assert restoring
    for config in restoring:
        assert (config.task, config.degradation, config.degrade) in inputs
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


ONE_ROW_OF_EACH_KIND = (
    "rows:\n  synthesis: {task: synthesis}\n  none: {task: densify, loss: none}\n"
    "  ce: {task: densify, loss: ce}\n  l1: {task: super_resolution, loss: ce_l1}\n"
)


def test_seeds_multiply_what_trains_a_mask_generator_and_nothing_else(
    config: str, tmp_path: Path
) -> None:
    grid = grid_file(tmp_path, ONE_ROW_OF_EACH_KIND)
    cells = cells_of(config, grid, "seeds=3")
    assert [(cell.name, cell.row, cell.config.seed) for cell in cells.values()] == [
        ("synthesis", "synthesis", 0),
        ("none", "none", 0),
        ("ce", "ce", 0),
        ("l1", "l1", 0),
        ("ce-seed1", "ce", 1),
        ("l1-seed1", "l1", 1),
        ("ce-seed2", "ce", 2),
        ("l1-seed2", "l1", 2),
    ]
    assert len({cell.folder for cell in cells.values()}) == 8
    assert all(cell.folder.name == cell.name for cell in cells.values())
    generators = {cells[name].config.generator.path for name in ("none", "ce", "ce-seed2")}
    assert generators == {cells["synthesis"].folder / "generator.pth"}
    alike = {"seed": 0, "run": Path("x")}
    assert cells["ce"].config.model_copy(update=alike) == cells["ce-seed2"].config.model_copy(
        update=alike
    )


def test_more_seeds_only_add_cells(config: str) -> None:
    few, many = list(cells_of(config).values()), list(cells_of(config, "seeds=3").values())
    assert many[: len(few)] == few
    assert len(many) == len(few) + 2 * 8


def test_a_given_image_generator_is_evaluated_once(config: str) -> None:
    names = cells_of(config, "generator.path=latest_net_G.pth", "seeds=2")
    assert [name for name in names if "synthesis" in name] == ["synthesis"]
    assert "densify-ce-seed1" in names


def test_seeds_count_from_the_seed_that_is_given(config: str, tmp_path: Path) -> None:
    grid = grid_file(
        tmp_path,
        "rows:\n  a: {task: densify, loss: ce}\n  b: {task: densify, loss: ce, seed: 40}\n",
    )
    cells = cells_of(config, grid, "seed=5", "seeds=2")
    seeds = {name: cell.config.seed for name, cell in cells.items()}
    assert seeds == {"a": 5, "a-seed6": 6, "b": 40, "b-seed41": 41}


def test_a_row_named_as_a_seed_of_another_is_refused_with_every_other_mistake(
    config: str, tmp_path: Path
) -> None:
    grid = grid_file(
        tmp_path,
        "rows:\n  a: {task: densify, loss: ce}\n  a-seed1: {task: densify, loss: none}\n"
        "  a-seed2: {task: densify, loss: ce}\n  b: {task: densfy}\n",
    )
    lines = refused(config, grid, "seeds=3")
    assert len(lines) == 3
    for line, seed in zip(lines, "12", strict=False):
        assert line.startswith(f"mine.yaml: cell a-seed{seed}: ")
        assert f"seed {seed} of row a;" in line
        assert "another name" in line
    assert lines[2].startswith("mine.yaml: cell b: task: ")
    fine = grid_file(tmp_path, "rows:\n  a: {task: densify}\n  a-seed1: {task: densify}\n")
    assert list(cells_of(config, fine)) == ["a", "a-seed1"]


@pytest.mark.parametrize("word", ["seeds=0", "seeds=-1", "seeds=two", "seeds=1.5"])
def test_a_number_of_seeds_that_is_none_is_refused(config: str, word: str) -> None:
    lines = refused(config, word, "training.num_images=many")
    assert len(lines) == 2
    assert sum(line.startswith("seeds: ") for line in lines) == 1


def test_a_seed_beyond_the_last_one_is_refused_by_the_name_of_its_cell(
    config: str, tmp_path: Path
) -> None:
    grid = grid_file(tmp_path, "rows: {a: {task: densify}}\n")
    (line,) = refused(config, grid, f"seed={2**63 - 1}", "seeds=2")
    assert line.startswith(f"mine.yaml: cell a-seed{2**63}: seed: ")
