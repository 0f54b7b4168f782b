"""mask_files.py: which masks are found beneath a folder."""

import os
from pathlib import Path
from typing import Any

import pytest
from masks import draw_mask

from maskrestore.inference.mask_files import find_masks, read_mask
from maskrestore.utils.errors import UserError


def names_of(source: Path) -> list[str]:
    return [mask.name for mask in find_masks(source, None)[0]]


def test_masks_in_linked_folders_are_found_and_circles_end(tmp_path: Path) -> None:
    source = tmp_path / "in"
    draw_mask(source / "train/a.png")
    draw_mask(tmp_path / "elsewhere/ulm/b.png")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "again").symlink_to(tmp_path / "elsewhere/ulm")
    (source / "train/up").symlink_to(source)
    (tmp_path / "elsewhere/ulm/back").symlink_to(tmp_path / "elsewhere")
    assert names_of(source) == ["again/b.png", "linked/ulm/b.png", "train/a.png"]


def test_names_in_capitals_and_links_to_nothing_count(tmp_path: Path) -> None:
    draw_mask(tmp_path / "a.png").tofile(tmp_path / "notes.txt")
    (tmp_path / "a.png").rename(tmp_path / "A.PNG")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "folder.png").mkdir()
    draw_mask(tmp_path / ".hidden.png")
    masks, _ = find_masks(tmp_path, None)
    assert [mask.name for mask in masks] == ["A.PNG", "gone.png", "self.png"]
    assert masks[0].restored == "A_restored.png"
    with pytest.raises(UserError, match=r"gone.png: No such file"):
        read_mask(masks[1].path)


def test_two_masks_that_would_become_one_file_are_refused(tmp_path: Path) -> None:
    draw_mask(tmp_path / "a.png")
    draw_mask(tmp_path / "a.PNG")
    with pytest.raises(UserError, match=r"a.PNG and a.png would both become a_restored.png"):
        find_masks(tmp_path, None)


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("open", "shut", "closed"):
        draw_mask(tmp_path / name / "a.png")
    scandir = os.scandir

    def denied(path: Any) -> Any:
        if Path(path).name in ("shut", "closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(UserError) as mistake:
        find_masks(tmp_path, None)
    assert str(mistake.value) == (
        f"input={tmp_path}: folders that cannot be read:\n"
        f"  {tmp_path}/closed: Permission denied\n  {tmp_path}/shut: Permission denied"
    )


def test_one_picture_serves_one_mask_only(tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/a.png")
    draw_mask(tmp_path / "picture.png")
    (only,), _ = find_masks(tmp_path / "in", tmp_path / "picture.png")
    assert only.image == tmp_path / "picture.png"
    draw_mask(tmp_path / "in/b.png")
    with pytest.raises(UserError, match=r"images=.*picture.png is one picture, but .* 2 masks"):
        find_masks(tmp_path / "in", tmp_path / "picture.png")
