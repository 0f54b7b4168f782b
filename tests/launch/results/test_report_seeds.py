"""report.py on a grid of several seeds: mean and spread, and what a mean is without."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from finished_cells import cells_of, finish, table_of, tiny_grid

from launch.report import main
from maskrestore.utils.files import lock


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return tiny_grid(tmp_path)


def folder_of(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "tiny-table1"


def densification(words: list[str], tmp_path: Path) -> dict[str, list[str]]:
    """Loss -> its other fields, of the rows of one task."""
    rows = table_of(words, tmp_path)
    return {row[1]: row[2:] for row in rows if row[0] == "densification"}


def remark_on(row: str, tmp_path: Path) -> str:
    """The one footnote of a row, after its mark."""
    lines = (folder_of(tmp_path) / "table1.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("- ") and f" {row}: " in line]
    mark = line.split()[1]
    assert sum(mark in other for other in lines) == 2, "a footnote is marked in its own row alone"
    return line.partition(f" {row}: ")[2]


def test_a_row_of_several_seeds_shows_their_mean_and_spread(
    words: list[str], tmp_path: Path
) -> None:
    words = [*words, "seeds=3"]
    cells = cells_of(words)
    finish(cells["densify-ce"], 0.86, 0.40, fid=70.0)
    finish(cells["densify-ce-seed1"], 0.87, 0.46, fid=70.5)
    finish(cells["densify-ce-seed2"], 0.88, 0.43, fid=71.0)
    finish(cells["densify-none"], 0.5, 0.5)
    rows = densification(words, tmp_path)
    assert len(table_of(words, tmp_path)) == 22
    assert table_of(words, tmp_path)[0][2:4] == ["ours: runs", "ours: accu"]
    # By hand: deviations -1, 0, 1 (-3, 0, 3; -0.5, 0, 0.5) have n - 1 = 2 under their squares.
    assert rows["CE"][:5] == [
        *("3 seeds", "87.0 ± 1.0", "43.0 ± 3.0 †", "43.0 ± 3.0", "70.5 ± 0.5")
    ]
    assert rows["CE"][5] == "0.0123 ± 0.0000"
    assert rows["CE"][-3:] == ["86.1", "42.1", "70.7"]
    assert rows["none (input as it is)"][:2] == ["-", "50.0"]
    text = (folder_of(tmp_path) / "table1.md").read_text()
    assert "seeds: 0, 1, 2" in text
    assert "cells done: 4 of 45" in text
    assert "n - 1" in text
    assert "same image generator" in text


def test_with_one_seed_nothing_is_said_of_seeds(words: list[str], tmp_path: Path) -> None:
    finish(cells_of(words)["densify-ce"], 0.86, 0.40)
    for more in ([], ["seed=9"]):
        main([*words, *more])
        text = (folder_of(tmp_path) / "table1.md").read_text()
        assert "- seed: 0\n" in text
        for word in ("seeds", "±", "ours: runs", "mean", "¹"):
            assert word not in text


def test_a_mean_is_marked_with_what_is_missing_in_it(words: list[str], tmp_path: Path) -> None:
    words = [*words, "seeds=4"]
    cells = cells_of(words)
    finish(cells["densify-ce"], 0.86, 0.40)
    finish(cells["densify-ce-seed2"], 0.88, 0.44)
    running, failed = cells["densify-ce-seed1"].folder, cells["densify-ce-seed3"].folder
    for folder in (running, failed):
        folder.mkdir()
        (folder / "metrics.jsonl").write_text('{"num_images": 6, "losses": {}}\n')
    (failed / "error.txt").write_text("broken\n")
    finish(cells["densify-ce_l1-seed3"], 0.75, 0.40)
    with lock(running):
        rows = densification(words, tmp_path)
    assert rows["CE"][:2] == ["2 of 4 seeds done ¹", "87.0 ± 1.4"]
    assert rows["CE+L1"][:2] == ["1 of 4 seeds done ²", "75.0"]  # no spread of a single one
    assert remark_on("densify-ce", tmp_path) == (
        "without densify-ce-seed1 (running 75 %), densify-ce-seed3 (failed)"
    )
    assert "densify-ce_l1 (missing)" in remark_on("densify-ce_l1", tmp_path)


def test_a_row_with_no_seed_done_shows_where_its_cells_stand(
    words: list[str], tmp_path: Path
) -> None:
    words = [*words, "seeds=3"]
    cells = cells_of(words)
    cells["densify-ce-seed1"].folder.mkdir(parents=True)
    (cells["densify-ce-seed1"].folder / "error.txt").write_text("broken\n")
    rows = densification(words, tmp_path)
    assert rows["CE"][:3] == ["0 of 3 seeds done", "*2 missing, failed*", "-"]
    assert rows["CE+L1"][:2] == ["0 of 3 seeds done", "*missing*"]


def test_an_unreadable_seed_is_left_out_and_named(words: list[str], tmp_path: Path) -> None:
    words = [*words, "seeds=2"]
    cells = cells_of(words)
    finish(cells["densify-ce"], 0.86, 0.40)
    finish(cells["densify-ce-seed1"], 0.88, 0.44)
    path = cells["densify-ce-seed1"].folder / "result.json"
    path.write_text("{")
    assert densification(words, tmp_path)["CE"][:2] == ["1 of 2 seeds done ¹", "86.0"]
    assert remark_on("densify-ce", tmp_path) == "without densify-ce-seed1 (unreadable)"
    assert f"- densify-ce-seed1: {path}" in (folder_of(tmp_path) / "table1.md").read_text()


def test_the_mean_is_what_is_compared_with_the_untrained(words: list[str], tmp_path: Path) -> None:
    words = [*words, "seeds=2"]
    cells = cells_of(words)
    finish(cells["densify-none"], 0.80, 0.80)
    finish(cells["densify-ce"], 0.90, 0.90)  # better on its own
    finish(cells["densify-ce-seed1"], 0.72, 0.68)
    accu, miou19, miou_all = densification(words, tmp_path)["CE"][1:4]  # not with every seed
    assert (accu, miou19, miou_all) == ("81.0 ± 12.7 ‡", "79.0 ± 15.6 †", "79.0 ± 15.6")
    assert "† Trained, but in the mean" in (folder_of(tmp_path) / "table1.md").read_text()


def test_seeds_that_were_not_made_alike_are_told(words: list[str], tmp_path: Path) -> None:
    words = [*words, "seeds=2"]
    cells = cells_of(words)
    finish(cells["densify-ce"], 0.86, 0.40)
    finish(cells["densify-ce-seed1"], 0.88, 0.44)
    finish(cells["densify-ce_l1"], 0.86, 0.40)
    finish(cells["densify-ce_l1-seed1"], 0.88, 0.44, commit="def456", edges="soft")
    finish(cells["densify-ce_vgg"], 0.86, 0.40)
    other = cells_of([*words, "training.learning_rate=0.5"])
    finish(other["densify-ce_vgg-seed1"], 0.88, 0.44)
    finish(cells["densify-ce_vgg_l1"], 0.86, 0.40, fid=None)
    finish(cells["densify-ce_vgg_l1-seed1"], 0.86, 0.40)
    for cell, code in ((cells["densify-ce_vgg_l1"], "a"), (cells["densify-ce_vgg_l1-seed1"], "b")):
        inputs = {"data": "0" * 64, "code": {"losses": code}}
        (cell.folder / "inputs.json").write_text(json.dumps(inputs))
    rows = densification(words, tmp_path)
    assert rows["CE"][0] == "2 seeds"
    assert rows["CE+L1"][0].startswith("2 seeds ")
    remark = remark_on("densify-ce_l1", tmp_path)
    assert remark == "not made alike: protocol.edges: argmax / soft; commit: abc123+dirty / def456"
    remark = remark_on("densify-ce_vgg", tmp_path)
    assert remark == "not made alike: training.learning_rate: 0.001 / 0.5"
    # Uncommitted changes, which the commit does not tell apart; and a mean that one seed is not in.
    assert "code (sha256): " in remark_on("densify-ce_vgg_l1", tmp_path)
    assert "data (sha256): " not in remark_on("densify-ce_vgg_l1", tmp_path)
    assert rows["CE+Lite0+L1"][4] == "-"
    text = (folder_of(tmp_path) / "table1.md").read_text()
    assert "- commit: abc123+dirty / def456\n" in text


def test_a_folder_of_another_seed_than_its_name_says_is_told(
    words: list[str], tmp_path: Path
) -> None:
    """Else a copied folder would be a spread of nothing."""
    words = [*words, "seeds=2"]
    cells = cells_of(words)
    finish(cells["densify-ce"], 0.86, 0.40)
    shutil.copytree(cells["densify-ce"].folder, cells["densify-ce-seed1"].folder)
    main(words)
    remark = remark_on("densify-ce", tmp_path)
    assert remark == "run with another seed than asked for: densify-ce-seed1 (seed 0)"


def test_seeds_that_the_report_is_not_asked_for_are_named(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("densify-ce", "densify-ce-seed1"):
        finish(cells_of([*words, "seeds=2"])[name], 0.9, 0.9)
    main(words)
    assert "not in the table: densify-ce-seed1; give seeds=" in capsys.readouterr().out
    main([*words, "seeds=2"])
    assert "not in the table" not in capsys.readouterr().out


def test_csv_tells_row_and_seed_of_every_cell(words: list[str], tmp_path: Path) -> None:
    words = [*words, "seeds=2", "seed=7"]
    finish(cells_of(words)["densify-ce-seed8"], 0.9, 0.9)
    main(words)
    with open(folder_of(tmp_path) / "table1.csv", newline="") as file:
        lines = {line["cell"]: line for line in csv.DictReader(file)}
    assert len(lines) == 21 + 12
    assert {(lines[f"densify-ce{end}"]["row"]) for end in ("", "-seed8")} == {"densify-ce"}
    assert (lines["densify-ce"]["seed"], lines["densify-ce"]["state"]) == ("7", "missing")
    assert (lines["densify-ce-seed8"]["seed"], lines["densify-ce-seed8"]["accu"]) == ("8", "0.9")
