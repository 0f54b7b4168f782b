"""report.py: the table, the CSV and Figure 2, from crafted run folders alone."""

import csv
from pathlib import Path

import pytest
from finished_cells import cells_of, draw, finish, table_of, tiny_grid
from label_sets import CITYSCAPES, LABEL_ID, LABELS
from PIL import Image

from launch.report import main
from launch.results.figure import Column, legend
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return tiny_grid(tmp_path)


def test_ours_stand_beside_the_papers_and_are_told_apart(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = cells_of(words)
    finish(cells["synthesis"], None, None, fid=91.25)
    finish(cells["densify-ce"], 0.8768, 0.4321)
    heads, *rows = table_of(words, tmp_path)

    assert heads == [
        *("task", "loss", "ours: accu", "ours: mIoU (19)", "ours: mIoU (all ids)"),
        *("ours: FID", "ours: KID"),
        *("paper: accu", "paper: mIoU", "paper: FID"),
    ]
    assert rows[0] == ["synthesis", *"----", "91.2", "0.0123", "-", "-", "62.9"]
    done = next(row for row in rows if row[:2] == ["densification", "CE"])
    assert done[2:] == ["87.7", "43.2", "43.2", "80.0", "0.0123", "86.1", "42.1", "70.7"]
    text = capsys.readouterr().out
    assert str(tmp_path / "runs" / "tiny-table1" / "table1.md") in text
    for fact in ("streetscenes", "96x192", "simulated", "0123456789ab", "abc123+dirty", "argmax"):
        assert fact in text
    assert "quoted, not ours" in text


def test_every_figure_of_the_paper_stands_in_its_row(words: list[str], tmp_path: Path) -> None:
    cells_of(words)["synthesis"].folder.mkdir(parents=True)
    _, *rows = table_of(words, tmp_path)
    by_name = {(row[0], row[1]): row[-3:] for row in rows}
    assert len(by_name) == len(rows) == 21
    assert by_name["densification", "none (input as it is)"] == ["68.5", "39.4", "157.7"]
    assert by_name["densification", "CE+Lite0+L1"] == ["86.5", "52.2", "68.4"]
    assert by_name["super-resolution 8x", "none (input as it is)"] == ["84.2", "57.6", "78.1"]
    assert by_name["super-resolution 8x", "CE+L1"] == ["93.7", "70.6", "66.4"]
    for ours_only in (
        "none (realigned)",
        "none (bilinear)",
        "none (input as it is, centre-sampled)",
    ):
        assert by_name["super-resolution 8x", ours_only] == ["-", "-", "-"]


def test_vgg_is_said_only_of_vgg19_as_the_run_was_set_and_not_the_command_line(
    words: list[str], tmp_path: Path
) -> None:
    finish(cells_of([*words, "perceptual.network=vgg19"])["densify-ce_vgg"], 0.9, 0.9)
    names = [row[1] for row in table_of(words, tmp_path) if row[0] == "densification"]
    assert "CE+VGG" in names
    assert "CE+Lite0+L1" in names


def test_cells_that_are_not_done_are_marked(words: list[str], tmp_path: Path) -> None:
    cells = cells_of(words)
    for name in ("densify-ce", "densify-ce_vgg", "densify-ce_l1"):
        cells[name].folder.mkdir(parents=True)
        (cells[name].folder / "metrics.jsonl").write_text('{"num_images": 6, "losses": {}}\n')
    (cells["densify-ce_vgg"].folder / "error.txt").write_text("broken\n")
    with lock(cells["densify-ce_l1"].folder):
        rows = {row[1]: row[2] for row in table_of(words, tmp_path) if row[0] == "densification"}
    assert rows["CE"] == "*stopped 75 %*"
    assert rows["CE+Lite0"] == "*failed*"
    assert rows["CE+L1"] == "*running 75 %*"
    assert rows["CE+Lite0+L1"] == "*missing*"


def test_trained_rows_that_lose_to_an_untrained_one_are_marked(
    words: list[str], tmp_path: Path
) -> None:
    cells = cells_of(words)
    finish(cells["super_resolution-none"], 0.80, 0.50)
    finish(cells["super_resolution-realign"], 0.90, 0.60)
    finish(cells["super_resolution-center-none"], 0.99, 0.99)  # another input: no competitor
    finish(cells["super_resolution-ce"], 0.91, 0.55)
    finish(cells["super_resolution-ce_l1"], 0.91, 0.61)
    finish(cells["densify-ce"], 0.10, 0.10)  # its baselines are not known yet
    rows = {(row[0][:5], row[1]): row[2:4] for row in table_of(words, tmp_path)}
    assert rows["super", "CE"] == ["91.0", "55.0 †"]
    assert rows["super", "CE+L1"] == ["91.0", "61.0"]
    assert rows["super", "none (input as it is)"] == ["80.0", "50.0"]
    assert rows["densi", "CE"] == ["10.0", "10.0"]
    text = (tmp_path / "runs" / "tiny-table1" / "table1.md").read_text()
    assert "† Trained, but no better than the best untrained row" in text


def test_csv_holds_a_flat_line_per_cell_with_the_papers_figures(
    words: list[str], tmp_path: Path
) -> None:
    finish(cells_of(words)["densify-ce"], 0.8768, 0.4321)
    main(words)
    with open(tmp_path / "runs" / "tiny-table1" / "table1.csv", newline="") as file:
        lines = {line["cell"]: line for line in csv.DictReader(file)}
    assert len(lines) == 21
    line = lines["densify-ce"]
    assert (line["state"], line["accu"], line["iou.road"]) == ("done", "0.8768", "0.5")
    assert (line["paper_accu"], line["paper_miou"], line["paper_fid"]) == ("86.1", "42.1", "70.7")
    assert (line["protocol.source"], line["commit"]) == ("streetscenes", "abc123+dirty")
    assert lines["densify-fill"]["state"] == "missing"
    assert lines["densify-fill"]["paper_accu"] == ""


def test_figure_shows_a_row_per_sample_and_the_legend(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "runs" / "tiny-table1" / "figure2.png"
    cells = cells_of(words)
    cells["synthesis"].folder.mkdir(parents=True)
    main(words)
    assert not path.exists()

    draw(cells["densify-ce"], "a")
    main(words)
    with Image.open(path) as one:
        narrow = one.size
    draw(cells["densify-ce_vgg_l1"], "a", "b")
    draw(cells["super_resolution-ce_vgg_l1"], "a", "b")
    draw(cells["synthesis"], "a", "b")
    main(words)
    with Image.open(path) as two:
        assert two.width > narrow[0]
        assert two.height >= narrow[1] + 128  # one sample more, its pictures 256 wide
        colors = {color for _, color in two.convert("RGB").getcolors(2**20) or []}
    assert LABELS[LABEL_ID["road"]].color in colors
    assert LABELS[LABEL_ID["train"]].color not in colors
    draw(cells["densify-ce_vgg_l1"], "worst of its own")  # the others have no picture of it
    main(words)
    with Image.open(path) as same:
        assert same.size == two.size


def test_the_legend_calls_a_colour_of_several_classes_by_the_evaluated_one(tmp_path: Path) -> None:
    pole, polegroup = (LABELS[LABEL_ID[name]] for name in ("pole", "polegroup"))
    assert pole.color == polegroup.color
    Image.new("RGB", (4, 2), pole.color).save(tmp_path / "a_true_mask.png")
    Image.new("RGB", (4, 2), LABELS[LABEL_ID["car"]].color).save(tmp_path / "a_real.png")
    columns = [Column("Truth", kind, tmp_path, kind) for kind in ("true_mask", "real")]
    assert legend(columns, ["a", "b"], CITYSCAPES) == [("pole", pole.color)]


def test_a_grid_that_was_never_run_is_said_so(words: list[str]) -> None:
    with pytest.raises(UserError, match=r"launch/submit\.py"):
        main(words)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("result.json", "{"),
        ("result.json", "[1]"),
        ("result.json", '{"metrics": {"accu": "x"}, "protocol": {}}'),
        ("result.json", '{"metrics": {"accu": {"road": 1}}, "protocol": {}}'),
        ("result.json", '{"metrics": {"iou": {"road": "x"}}, "protocol": {}}'),
        ("config.yaml", "of: another program\n"),
        ("config.yaml", "- a list\n"),
    ],
)
def test_a_cell_that_cannot_be_read_is_marked_and_its_file_named(
    words: list[str], tmp_path: Path, file: str, text: str
) -> None:
    cells = cells_of(words)
    finish(cells["densify-ce"], 0.5, 0.5)
    finish(cells["densify-ce_l1"], 0.5, 0.5)
    (cells["densify-ce"].folder / file).write_text(text)
    rows = {row[1]: row[2] for row in table_of(words, tmp_path) if row[0] == "densification"}
    assert (rows["CE"], rows["CE+L1"]) == ("*unreadable*", "50.0")
    lines = (tmp_path / "runs" / "tiny-table1" / "table1.md").read_text().splitlines()
    assert any(str(cells["densify-ce"].folder / file) in line for line in lines)


def test_metrics_that_cannot_be_read_mark_their_cell_alone(
    words: list[str], tmp_path: Path
) -> None:
    cells = cells_of(words)
    for name in ("densify-ce", "densify-ce_l1"):
        finish(cells[name], 0.5, 0.5)
    (cells["densify-ce"].folder / "metrics.jsonl").mkdir()
    rows = {row[1]: row[2] for row in table_of(words, tmp_path) if row[0] == "densification"}
    assert (rows["CE"], rows["CE+L1"]) == ("*unreadable*", "50.0")
    told = f"densify-ce: {cells['densify-ce'].folder / 'metrics.jsonl'} cannot be read"
    for name in ("table1.md", "table1.html"):
        assert told in (tmp_path / "runs" / "tiny-table1" / name).read_text()


def test_the_paper_is_quoted_only_for_its_own_factor(words: list[str], tmp_path: Path) -> None:
    cells_of(words)["synthesis"].folder.mkdir(parents=True)
    _, *rows = table_of([*words, "degrade.factor=4"], tmp_path)
    by_name = {(row[0], row[1]): row[-3:] for row in rows}
    assert by_name["super-resolution 4x", "CE+L1"] == ["-", "-", "-"]
    assert by_name["super-resolution 4x", "none (input as it is)"] == ["-", "-", "-"]
    assert by_name["densification", "CE"] == ["86.1", "42.1", "70.7"]
