"""seeds=N: which cells are run again, with which seeds, under which names."""

from pathlib import Path

import pytest
from grid_files import cells_of, config, grid_file, refused

__all__ = ["config"]  # a fixture

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
    assert len(many) == len(few) + 2 * 12


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
