"""The file of report.py's page: what is in it, from crafted run folders alone."""

import base64
import csv
import io
import re
from pathlib import Path

import pytest
from finished_cells import cells_of, finish, measure, table_of, tiny_grid
from PIL import Image
from report_page import BREAKS_OUT, ODD_KEY, data_of

from launch.report import main
from maskrestore.runs.figures import CAPTIONS
from maskrestore.utils.errors import ConfigError


def test_texts_stay_texts_and_nothing_refers_to_elsewhere(path: Path) -> None:
    text = path.read_text()
    assert text.count("<script") == text.count("</script>") == 2
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(
        r"@import|url\(|fetch\(|XMLHttpRequest|\bimport\b|https?://(?!www\.w3)", text
    )
    assert ODD_KEY not in text
    assert any(BREAKS_OUT in value for fact in data_of(path)["made"] for value, _ in fact["values"])


def test_each_picture_is_held_once_and_masks_exactly(rich_words: list[str], path: Path) -> None:
    data = data_of(path)
    rows = {row["name"]: row["pictures"] for row in data["rows"]}
    same = {row["a_1"]["input"] for row in rows.values() if row}
    assert len(same) == 1
    assert rows["ce"]["a_1"]["restored"] != rows["none"]["a_1"]["restored"]
    uris = data["pictures"]
    assert len(set(uris)) == len(uris) == path.read_text().count("base64,") - 1  # and the icon
    for kind in ("restored", "true_mask"):
        uri = data["pictures"][rows["ce"]["a_1"][kind]]
        embedded = io.BytesIO(base64.b64decode(uri.partition(",")[2]))
        file = cells_of(rich_words)["ce"].folder / "pictures" / f"a_1_{kind}.png"
        with Image.open(embedded) as shown, Image.open(file) as drawn:
            assert shown.convert("RGB").tobytes() == drawn.tobytes()
    assert data["pictureClasses"][rows["ce"]["a_1"]["true_mask"]] == ["road"]


def test_kinds_of_pictures_are_called_as_in_the_run_folders(path: Path) -> None:
    assert data_of(path)["kinds"] == CAPTIONS


def test_format_says_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = tiny_grid(tmp_path)
    folder = tmp_path / "runs" / "tiny-table1"
    finish(cells_of(words)["densify-ce"], 0.9, 0.9)
    main([*words, "format=html"])
    assert [path.name for path in folder.glob("table1.*")] == ["table1.html"]
    assert capsys.readouterr().out == f"{folder / 'table1.html'}\n"
    assert "format=" not in "".join(data_of(folder / "table1.html")["commands"])
    (folder / "table1.html").unlink()
    main([*words, "format=text"])
    assert {path.suffix for path in folder.glob("table1.*")} == {".md", ".tex", ".csv"}
    main(words)
    assert (folder / "table1.html").is_file()
    with pytest.raises(ConfigError, match="format"):
        main([*words, "format=pdf"])


def test_strict_rows_are_compared_over_the_evaluated_classes(tmp_path: Path) -> None:
    words = [*tiny_grid(tmp_path), "protocol=strict"]
    cells = cells_of(words)
    for name, accu, accu19 in (("fill", 0.8, 0.9), ("ce", 0.85, 0.88), ("ce_l1", 0.7, 0.95)):
        finish(cells[f"densify-{name}"], accu, 0.5 if name == "fill" else 0.6)
        measure(cells[f"densify-{name}"], accu19=accu19, intervals={"accu19": [0.85, 0.97]})
    heads, *rows = table_of(words, tmp_path)
    assert heads[2:4] == ["ours: accu (19)", "ours: mIoU (19)"]
    assert heads[4] == "ours: FID"
    shown = {row[1]: row[2] for row in rows if row[0] == "densification, strict"}
    assert (shown["CE"], shown["CE+L1"]) == ("88.0 †", "95.0")
    folder = tmp_path / "runs" / "tiny-table1"
    assert "accu (19)" in (folder / "table1.tex").read_text()
    assert data_of(folder / "table1.html")["headlines"][:2] == ["accu19", "miou19"]
    with open(folder / "table1.csv", newline="") as file:
        line = next(line for line in csv.DictReader(file) if line["cell"] == "densify-ce")
    assert (line["accu19"], line["accu19_low"], line["accu19_high"]) == ("0.88", "0.85", "0.97")
    assert "intervals" not in "".join(line)
