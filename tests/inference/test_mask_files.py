"""mask_files.py: which masks are found beneath a folder."""

import os
from pathlib import Path
from typing import Any

import pytest
from label_sets import CITYSCAPES
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
        read_mask(masks[1].path, CITYSCAPES)


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


def test_listing_asks_nothing_of_each_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 masks on a network's file system: each question takes as long as a whole listing."""
    draw_mask(tmp_path / "ulm/0.png")
    for number in range(1, 300):
        os.link(tmp_path / "ulm/0.png", tmp_path / f"ulm/{number}.png")
    stat, asked = os.stat, list[Any]()
    monkeypatch.setattr(os, "stat", lambda path, **how: (asked.append(path), stat(path, **how))[1])
    assert len(find_masks(tmp_path, None)[0]) == 300
    assert len(asked) < 10


def test_one_picture_serves_one_mask_only(tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/a.png")
    draw_mask(tmp_path / "picture.png")
    (only,), _ = find_masks(tmp_path / "in", tmp_path / "picture.png")
    assert only.image == tmp_path / "picture.png"
    draw_mask(tmp_path / "in/b.png")
    with pytest.raises(UserError, match=r"images=.*picture.png is one picture, but .* 2 masks"):
        find_masks(tmp_path / "in", tmp_path / "picture.png")


NFC, NFD = "m\u00fcnchen\u00e9", "mu\u0308nchene\u0301"


@pytest.mark.parametrize(
    ("mask", "picture"),
    [
        ("a.png", "a.JPG"),
        ("a.PNG", "a.Jpeg"),
        ("a.Png", "a.PNG"),
        (f"{NFC}.png", f"{NFD}.jpg"),
        (f"{NFD}.PNG", f"{NFC}.JPEG"),
        (f"{NFD}/{NFC}/a.png", f"{NFC}/{NFD}/a.png"),
        ("ulm/k_gtCoarse_labelIds.PNG", "ulm/k_leftImg8bit.JPG"),
        ("gtCoarse/val/ulm/k_gtCoarse_labelIds.png", "leftImg8bit/val/ulm/k_leftImg8bit.PNG"),
        (f"{NFD}/k_gtCoarse_labelIds.png", f"leftImg8bit/{NFC}/k_leftImg8bit.png"),
    ],
)
def test_a_mask_finds_its_picture_however_systems_write_their_names(
    tmp_path: Path, mask: str, picture: str
) -> None:
    for path in (tmp_path / "in" / mask, tmp_path / "pictures" / picture):
        draw_mask(path.with_suffix(".png"))
        path.with_suffix(".png").rename(path)
    (only,), _ = find_masks(tmp_path / "in", tmp_path / "pictures")
    assert only.name == mask
    assert only.image == tmp_path / "pictures" / picture
    assert only.restored.endswith(("_restored.png", "k_gtRestored_labelIds.png"))
    (only,), _ = find_masks(tmp_path / "in" / mask, tmp_path / "pictures" / picture)
    assert only.image == tmp_path / "pictures" / picture


def test_of_several_pictures_the_one_of_the_mask_s_own_name_is_taken(tmp_path: Path) -> None:
    draw_mask(tmp_path / f"in/{NFD}.png")
    for name in (f"{NFC}.png", f"{NFD}.png", f"{NFD}.jpg", f"._{NFD}.png"):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(b"not opened here")
    (tmp_path / "pictures/a.png").mkdir()
    draw_mask(tmp_path / "in/a.png")
    lonely, only = find_masks(tmp_path / "in", tmp_path / "pictures")[0]
    assert only.image == tmp_path / f"pictures/{NFD}.png"
    assert lonely.image == tmp_path / "pictures/a.png"
    (tmp_path / f"pictures/{NFD}.png").unlink()
    assert find_masks(tmp_path / "in", tmp_path / "pictures")[0][1].image == (
        tmp_path / f"pictures/{NFC}.png"
    )


def test_what_systems_leave_beside_masks_is_passed_over(tmp_path: Path) -> None:
    draw_mask(tmp_path / "a.png")
    for name in ("._a.png", "__MACOSX/._a.png", ".ipynb_checkpoints/a-checkpoint.png"):
        draw_mask(tmp_path / name)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "a.png:Zone.Identifier"):
        (tmp_path / name).write_bytes(b"\0")
    assert names_of(tmp_path) == ["a.png"]


def test_folders_of_pictures_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_mask(tmp_path / "in/shut/a.png")
    draw_mask(tmp_path / "pictures/shut/a.png")
    listdir = os.listdir

    def denied(path: Any) -> Any:
        if path == tmp_path / "pictures/shut":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(UserError, match=r"images=.*\n  .*/pictures/shut: Permission denied"):
        find_masks(tmp_path / "in", tmp_path / "pictures")
