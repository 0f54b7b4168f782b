"""generators=FILES: each row with each of them, and how the table tells them apart."""

from pathlib import Path

from finished_cells import cells_of as cells_of_words
from finished_cells import finish, table_of, tiny_grid
from grid_files import cells_of, config, grid_file, refused

__all__ = ["config"]  # a fixture

ROWS = (
    "rows:\n  drawn: {task: synthesis}\n  fill: {task: densify, loss: none, baseline: fill}\n"
    "  ce: {task: densify, loss: ce}\n"
)


def test_each_row_is_run_with_each_file(config: str, tmp_path: Path) -> None:
    cells = cells_of(config, grid_file(tmp_path, ROWS), "generators=a.pth,b c.pth", "seeds=2")
    paths = {name: str(cell.config.generator.path) for name, cell in cells.items()}
    assert paths == {
        "drawn-a": "a.pth",
        "drawn-b_c": "b c.pth",
        "fill-a": "a.pth",
        "fill-b_c": "b c.pth",
        "ce-a": "a.pth",
        "ce-b_c": "b c.pth",
        "ce-a-seed1": "a.pth",
        "ce-b_c-seed1": "b c.pth",
    }
    assert cells["drawn-a"].config.loss == "none"  # it is evaluated, and not trained
    same = ("generators=x/latest_net_G.pth,y/latest_net_G.pth",)
    names = cells_of(config, grid_file(tmp_path, ROWS), *same)
    assert list(names)[:2] == ["drawn-x-latest_net_G", "drawn-y-latest_net_G"]


def test_files_that_have_the_same_name(config: str) -> None:
    [mistake] = refused(config, "generators=a.pth,a.pth")
    assert "their names tell them not apart" in mistake


def test_the_grid_of_that_name_is_whole(config: str) -> None:
    cells = cells_of(config, "grid=generators", "generators=a.pth,b.pth")
    assert len(cells) == 14
    assert {cell.config.loss for cell in cells.values()} == {"none", "ce", "ce_vgg_l1"}
    assert cells_of(config, "grid=generators")["true_masks"].config.trains_generator


def test_rows_are_told_apart_and_compared_with_those_of_the_same(tmp_path: Path) -> None:
    grid = tmp_path / "table1.yaml"
    grid.write_text(ROWS)
    words = [*tiny_grid(tmp_path), f"grid={grid}", "generators=a.pth,b.pth"]
    cells = cells_of_words(words)
    finish(cells["drawn-a"], None, None, fid=10.0, generator="SPADE")
    finish(cells["fill-a"], 0.8, 0.4, fid=20.0, generator="SPADE")
    finish(cells["fill-b"], 0.8, 0.4, fid=90.0, generator="OASIS", style="zero")
    finish(cells["ce-b"], 0.9, 0.5, fid=80.0, generator="OASIS", style="zero")
    losses = [row[1] for row in table_of(words, tmp_path)]
    assert "through a" in losses
    assert "none (nearest label, through b)" in losses
    assert "CE (through b)" in losses
