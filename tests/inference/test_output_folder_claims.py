"""output/folder.py: whose an output folder is, and which files in it."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from masks import draw_mask

from maskrestore.inference.mask_files import MaskFile, find_masks
from maskrestore.inference.output.folder import OutputFolder
from maskrestore.inference.output.journal import count_done
from maskrestore.utils.errors import UserError

FACTS = {"commit": None}


@pytest.fixture
def masks(tmp_path: Path) -> list[MaskFile]:
    for name in "ab":
        draw_mask(tmp_path / f"in/{name}.png")
    return find_masks(tmp_path / "in", None)[0]


def folder_of(tmp_path: Path, part: str = "0/1", **identity: Any) -> OutputFolder:
    return OutputFolder(tmp_path / "out", part, 0, {"fit": "resize", **identity})


def claim(
    folder: OutputFolder, masks: Sequence[MaskFile], augment: bool = False, overwrite: bool = False
) -> ExitStack:
    return folder.claim(masks, augment, FACTS, overwrite)


def finish(folder: OutputFolder, mask: MaskFile, augment: bool) -> None:
    folder.journal.note(mask, "begun")
    for name in mask.outputs(augment).values():
        (folder.folder / name).write_text("ours")
    folder.journal.note(mask, "done", stamp=mask.stamp(), row={})


def test_a_file_at_a_name_that_failed_before_is_still_somebody_else_s(
    masks: list[MaskFile], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    with claim(folder, masks):
        folder.journal.note(masks[0], "failed", problem="cut off")
        finish(folder, masks[1], False)
    (tmp_path / "out/a_restored.png").write_text("mine")
    with pytest.raises(UserError, match=r"did not write: 1\n  a_restored.png"):
        claim(folder_of(tmp_path), masks)


def test_other_commands_wait_for_the_end_of_those_at_work(
    masks: list[MaskFile], tmp_path: Path
) -> None:
    with claim(folder_of(tmp_path, "0/2"), masks[:1]), claim(folder_of(tmp_path, "1/2"), masks[1:]):
        finish(folder_of(tmp_path, "0/2"), masks[0], False)
        for other in (folder_of(tmp_path, "0/1"), folder_of(tmp_path, "2/3", fit="tile")):
            with pytest.raises(UserError, match=r"a command with other settings, or another numb"):
                claim(other, masks, overwrite=True)
        with pytest.raises(UserError, match="at work on this run"):
            claim(folder_of(tmp_path, "1/2"), masks)
    assert folder_of(tmp_path).done(masks, False) == {"a.png"}
    with claim(folder_of(tmp_path, fit="tile"), masks, overwrite=True):
        pass


def test_a_refused_command_leaves_nothing_behind(masks: list[MaskFile], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a_overlay.png").write_text("mine")
    with pytest.raises(UserError, match="in the way"):
        claim(folder_of(tmp_path), masks)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_overlay.png"]


def test_other_settings_leave_no_pairs_of_the_first(masks: list[MaskFile], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = folder_of(tmp_path, augment=True)
    with claim(first, masks, augment=True):
        for mask in masks:
            finish(first, mask, True)
        first.summarize(masks, True)
    (out / "notes_synthesized.png").write_text("mine")
    (tmp_path / "other_synthesized.png").write_text("mine")
    with open(out / "manifest.csv", "a") as file:
        file.write(f"../other_synthesized.png,{tmp_path}/other_synthesized.png,a,b\n")
    assert (out / "manifest.csv").read_text().count("_synthesized.png") == 4
    with claim(folder_of(tmp_path, augment=True), masks, augment=True):
        assert (out / "manifest.csv").exists()
    with claim(folder_of(tmp_path, augment=False), masks, overwrite=True):
        pass
    assert not (out / "manifest.csv").exists()
    assert [path.name for path in out.glob("*_synthesized*")] == ["notes_synthesized.png"]
    assert (tmp_path / "other_synthesized.png").exists()


def test_names_that_are_not_utf_8_stand_in_a_summary_that_is(tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/bad\udcff.png")
    masks, _ = find_masks(tmp_path / "in", None)
    folder = folder_of(tmp_path)
    with claim(folder, masks, augment=True):
        finish(folder, masks[0], True)
        folder.summarize(masks, True)
    for name in ("summary.csv", "manifest.csv"):
        assert "bad\\udcff.png" in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert folder.done(masks, True) == {masks[0].name}


def test_lines_of_a_journal_that_are_none_are_passed_over(
    masks: list[MaskFile], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path)
    with claim(folder, masks):
        finish(folder, masks[0], False)
        (journal,) = (tmp_path / "out").glob(".restore/*/*.jsonl")
        with open(journal, "a") as file:
            file.write('3\nnull\n{"file": "b.png"}\n' + json.dumps({"time": 1}) + "\n{")
        assert folder.done(masks, False) == {"a.png"}
        assert [count_done(tmp_path / "out", part) for part in ("0/1", "0/2")] == [1, 0]


def test_a_clock_that_is_set_back_does_not_change_what_counts_as_last(
    masks: list[MaskFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restored by the second process of one start; restoring it failed in the next start, by the
    first one, an hour earlier by the clock; then it was restored again."""
    identity = {"fit": "resize"}
    processes = [OutputFolder(tmp_path / "out", "0/1", rank, identity) for rank in (1, 0, 1)]
    clock = iter(range(100_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: next(clock))
    with claim(processes[0], masks):
        finish(processes[0], masks[0], False)
        finish(processes[0], masks[1], False)
    assert processes[1].done(masks, False) == {"a.png", "b.png"}
    processes[1].journal.note(masks[0], "failed", problem="cut off")
    assert processes[1].done(masks, False) == {"b.png"}
    finish(processes[2], masks[0], False)
    assert processes[1].done(masks, False) == {"a.png", "b.png"}


def test_journals_of_earlier_versions_are_read_by_time(
    masks: list[MaskFile], tmp_path: Path
) -> None:
    """Their lines have no start; whatever is noted now comes after them."""
    folder = folder_of(tmp_path)
    with claim(folder, masks):
        finish(folder, masks[0], False)
    (journal,) = (tmp_path / "out").glob(".restore/*/*.jsonl")
    lines = [json.loads(text) for text in journal.read_text().splitlines() if text]
    old = [line for line in lines if line.pop("start") == 1]
    late = old[-1] | {"state": "failed", "time": old[-1]["time"] + 1}
    journal.write_text("\n".join(map(json.dumps, [late, *old])))
    assert folder_of(tmp_path).done(masks, False) == set()
    finish(folder_of(tmp_path), masks[0], False)
    assert folder_of(tmp_path).done(masks, False) == {"a.png"}
