"""restore.py: masks and pictures as other programs and systems leave them, by the program."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from label_sets import LABELS
from masks import draw_image, draw_mask, make_run, read, restore, rows_of
from PIL import Image
from raw_data import chunk, deep_png

pytestmark = pytest.mark.slow

PALETTE = np.array([label.color for label in LABELS], np.uint8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def lying(path: Path, pixels: np.ndarray, orientation: int) -> None:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    exif = image.getexif()
    exif[0x112] = orientation
    image.save(path, exif=exif)


def test_pictures_that_lie_otherwise_are_seen_upright(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "condition=mask_image")
    pictures = tmp_path / "pictures"
    upright = draw_image(pictures / "plain.png")
    turned = {
        "mirrored": (2, upright[:, ::-1]),
        "turned": (3, upright[::-1, ::-1]),
        "left": (6, np.rot90(upright)),
        "right": (8, np.rot90(upright, -1)),
    }
    for name, (orientation, pixels) in turned.items():
        lying(pictures / f"{name}.PNG", pixels, orientation)
    for name in ("plain", *turned):
        given = draw_mask(tmp_path / f"in/{name}.png")
    lying(tmp_path / "in/plain.png", np.rot90(given), 6)  # the mask as well
    # Alone: in a batch the convolutions may round otherwise at another place.
    words = (f"images={pictures}", "batch_size=1")
    done = restore(run, tmp_path / "in", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr
    for kind in ("restored", "confidence", "overlay"):
        expected = read(tmp_path / f"out/plain_{kind}.png")
        for name in turned:
            assert np.array_equal(read(tmp_path / f"out/{name}_{kind}.png"), expected)


def test_grey_pictures_of_16_bits_are_scaled_or_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "condition=mask_image")
    samples = np.random.default_rng(0).integers(0, 65536, (32, 64))
    (tmp_path / "pictures").mkdir()
    for name, values in (("deep", samples), ("sensor", samples // 16)):
        (tmp_path / f"pictures/{name}.png").write_bytes(deep_png(16, 0, values))
    Image.fromarray((samples // 256).astype(np.uint8)).save(tmp_path / "pictures/flat.png")
    for name in ("deep", "flat", "sensor"):
        draw_mask(tmp_path / f"in/{name}.png")
    done = restore(run, tmp_path / "in", tmp_path / "out", f"images={tmp_path}/pictures")
    assert done.returncode == 2
    assert "sensor.png: has 16 bits per channel but nothing brighter" in done.stderr
    deep, flat = (read(tmp_path / f"out/{name}_overlay.png") for name in ("deep", "flat"))
    assert np.array_equal(deep, flat)


def test_ids_in_the_labels_own_palette_stay_ids(run: Path, tmp_path: Path) -> None:
    ids = np.full((32, 64), 7)
    ids[24:], ids[:8] = 1, 4
    (tmp_path / "in").mkdir()
    palette = chunk(b"PLTE", PALETTE.tobytes())
    (tmp_path / "in/own.png").write_bytes(deep_png(8, 3, ids, palette))
    ids_too = chunk(b"tRNS", b"\xff" * 7 + b"\0")
    (tmp_path / "in/transparent.png").write_bytes(deep_png(8, 3, ids, palette, ids_too))
    done = restore(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "encoding: ids\n" in done.stdout
    assert np.array_equal(read(tmp_path / "out/own_restored.png"), ids)
    rows = rows_of(tmp_path / "out")
    assert rows["own.png"]["annotated"] == "1.0"
    assert rows["transparent.png"]["annotated"] == "0.5"


def test_binary_masks_are_asked_for_and_what_is_answered_holds(run: Path, tmp_path: Path) -> None:
    binary = np.zeros((32, 64), np.uint8)
    binary[8:24, 16:48] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(binary).save(tmp_path / "in/a.png")
    done = restore(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "encoding=auto: no values but 0 and 255 in a.png, as binary masks" in done.stderr
    assert not (tmp_path / "out").exists()
    done = restore(run, tmp_path / "in", tmp_path / "out", "encoding=train_ids")
    assert done.returncode == 0, done.stderr
    assert rows_of(tmp_path / "out")["a.png"]["annotated"] == "0.75"


def test_alpha_of_a_mask_is_what_nobody_annotated(run: Path, tmp_path: Path) -> None:
    colors = np.full((32, 64, 4), 255, np.uint8)
    colors[..., :3] = PALETTE[7]
    colors[16:] = (255, 255, 255, 0)
    (tmp_path / "in").mkdir()
    Image.fromarray(colors).save(tmp_path / "in/colors.png")
    (tmp_path / "in/key.png").write_bytes(
        deep_png(8, 2, colors[..., :3], chunk(b"tRNS", struct.pack(">HHH", 255, 255, 255)))
    )
    done = restore(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert {row["annotated"] for row in rows_of(tmp_path / "out").values()} == {"0.5"}


@pytest.mark.parametrize("name", ["A" * 235, "\u9053" * 78, "A" * 251], ids=["235", "wide", "251"])
def test_a_name_that_is_too_long_with_our_endings_is_told_of_alone(
    run: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "pictures").mkdir()
    for number, stem in enumerate("bcd"):
        draw_mask(tmp_path / f"in/{stem}.png", seed=number)
        draw_image(tmp_path / f"pictures/{stem}.png")
    draw_mask(tmp_path / "in/a.png")
    os.rename(tmp_path / "in/a.png", tmp_path / f"in/{name}.png")
    draw_image(tmp_path / "pictures/a.png")
    os.rename(tmp_path / "pictures/a.png", tmp_path / f"pictures/{name}.png")
    for counts in ("restored: 3, not restored: 1", "done before: 3, not restored: 1"):
        words = (f"images={tmp_path}/pictures",)
        done = restore(run, tmp_path / "in", tmp_path / "out", *words)
        assert done.returncode == 2
        assert counts in done.stdout
        assert f"{name}.png: cannot be written as {name}_" in done.stderr
        assert "File name too long; give the mask another name" in done.stderr
        assert len(list((tmp_path / "out").glob("*.png"))) == 9
        assert "too long" in rows_of(tmp_path / "out")[f"{name}.png"]["problem"]


def test_folders_that_are_too_deep_are_told_of_alone(run: Path, tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/b.png")
    deep = tmp_path / "in"
    while len(str(deep)) < 4095 - 250 - len("a.png"):
        deep /= "f" * 200
    draw_mask(deep / "a.png")
    out = tmp_path / ("out" + "o" * 200)
    done = restore(run, tmp_path / "in", out)
    assert done.returncode == 2, done.stderr
    assert "restored: 1, not restored: 1" in done.stdout
    assert "File name too long" in done.stderr


def test_folders_that_are_typed_in_another_normal_form_are_the_same(
    run: Path, tmp_path: Path
) -> None:
    """macOS writes letters and marks apart (NFD), keyboards and Linux together (NFC)."""
    lies, typed = "m\u00fcnchen", "mu\u0308nchen"
    draw_mask(tmp_path / lies / "a.png")
    draw_image(tmp_path / f"{lies}-pictures" / "a.png")
    words = f"images={tmp_path}/{typed}-pictures"
    done = restore(run, tmp_path / typed, tmp_path / f"{lies}-out", words)
    assert done.returncode == 0, done.stderr
    again = restore(run, tmp_path / lies, tmp_path / f"{typed}-out", words)
    assert "done before: 1" in again.stdout
    assert not (tmp_path / f"{typed}-out").exists()
