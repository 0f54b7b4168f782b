"""encodings.py: label ids, trainIds and colours in PNGs of all kinds."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from label_sets import CITYSCAPES, LABELS
from PIL import Image

from maskrestore.data.pictures import Mask
from maskrestore.inference.encodings import decode, detect, from_numbers, to_numbers

IDS = np.arange(34, dtype=np.uint8).reshape(2, 17)
COLORS = np.array([label.color for label in LABELS], np.uint8)
PALETTE = COLORS.ravel().tolist()


def png(image: Image.Image, **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **more)
    return buffer.getvalue()


def grey(*values: int) -> Mask:
    return Mask(np.array([values], np.uint8))


def palette_mask(palette: list[int]) -> Mask:
    image = Image.fromarray(IDS, "L").convert("P")
    image = Image.frombytes("P", image.size, IDS.tobytes())
    image.putpalette(palette)
    return decode(png(image), CITYSCAPES)


def interlaced(ids: np.ndarray) -> bytes:
    """A grey PNG in Adam7's seven passes; PIL reads them and writes none."""
    height, width = ids.shape
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2))
    rows = b""
    for top, down, left, right in (*passes, (1, 2, 0, 1)):
        part = ids[top::down, left::right]
        rows += b"".join(b"\0" + row.tobytes() for row in part if part.shape[1])
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        data += struct.pack(">I", len(content)) + name + content
        data += struct.pack(">I", zlib.crc32(name + content))
    return data


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A PNG whose head tells another size."""
    head = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


def test_ids_come_and_go_as_they_are() -> None:
    picture = decode(png(Image.fromarray(IDS)), CITYSCAPES)
    assert np.array_equal(to_numbers(picture, "ids", CITYSCAPES), IDS)
    assert np.array_equal(from_numbers(IDS, "ids", CITYSCAPES), IDS)


def test_train_ids_come_and_go_where_they_are_evaluated() -> None:
    train_ids = np.array([[0, 10, 18, 255]], np.uint8)
    ids = to_numbers(Mask(train_ids), "train_ids", CITYSCAPES)
    assert ids.tolist() == [[7, 23, 33, 0]]
    assert np.array_equal(from_numbers(ids, "train_ids", CITYSCAPES), train_ids)
    assert from_numbers(np.array([[1, 29]], np.uint8), "train_ids", CITYSCAPES).tolist() == [
        [255, 255]
    ]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_come_and_go_where_they_are_a_class_s_own(mode: str) -> None:
    image = Image.fromarray(COLORS[IDS])
    # Each colour at the place of another label.
    order = np.arange(34, dtype=np.uint8)[::-1]
    if mode == "P":
        image = Image.fromarray(order[IDS], "P")
        image.putpalette(COLORS[order].ravel().tolist())
    picture = decode(png(image if mode == "P" else image.convert(mode)), CITYSCAPES)
    assert detect([("a.png", picture)], CITYSCAPES) == "colors"
    ids = to_numbers(picture, "colors", CITYSCAPES)
    assert np.array_equal(from_numbers(ids, "colors", CITYSCAPES), COLORS[IDS])
    own = [i for i, label in enumerate(LABELS) if label.color not in {(0, 0, 0), (153, 153, 153)}]
    assert ids.ravel()[own].tolist() == own
    assert (ids.ravel()[:5] == 0).all()
    assert ids.ravel()[18] == 17


def test_interlaced_pngs_are_read() -> None:
    ids = np.resize(IDS, (13, 21))
    assert np.array_equal(decode(interlaced(ids), CITYSCAPES).pixels, ids)


def test_a_palette_of_greys_holds_ids() -> None:
    picture = palette_mask([value for i in range(34) for value in (i, i, i)])
    assert detect([("a.png", picture)], CITYSCAPES) == "ids"
    assert np.array_equal(to_numbers(picture, "ids", CITYSCAPES), IDS)


@pytest.mark.parametrize(
    ("named", "encoding"),
    [
        ([("a.png", grey(0, 7, 33))], "ids"),
        ([("a.png", grey(0, 7, 18))], "ids"),
        ([("a.png", grey(0, 7)), ("b.png", grey(0, 255))], "train_ids"),
        ([("a_labelTrainIds.png", grey(0, 7))], "train_ids"),
        ([("a.png", grey(7, 40))], "ids"),
        ([("a.png", Mask(COLORS[IDS])), ("blank.png", grey(0, 0))], "colors"),
        ([("a.png", grey(7)), ("blank.png", Mask(np.zeros((1, 2, 3), np.uint8)))], "ids"),
        ([("blank.png", grey(0, 0))], "ids"),
    ],
)
def test_the_encoding_of_grey_masks_is_found(named: list[tuple[str, Mask]], encoding: str) -> None:
    assert detect(named, CITYSCAPES) == encoding


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ([("a.png", grey(0, 255)), ("b.png", grey(26))], "a.png seems to hold trainIds.*b.png.*26"),
        ([("a_trainIds.png", grey(20))], "a_trainIds.png seems to hold trainIds"),
        ([("a.png", Mask(COLORS[IDS])), ("b.png", grey(7))], "a.png holds colours, b.png ids"),
        ([("a.png", palette_mask([1, 2, 3] * 34))], "a.png has a palette of other colours"),
    ],
)
def test_what_leaves_the_encoding_open_is_refused_by_name(
    named: list[tuple[str, Mask]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        detect(named, CITYSCAPES)


@pytest.mark.parametrize(
    ("picture", "encoding", "message"),
    [
        (
            grey(7, 40, 40),
            "ids",
            "2 of 3 pixels are of values that are not 0..33, the first 40; the nearest is 33, bi",
        ),
        (grey(7, 255), "ids", "1 of 2 pixels .* 255 is the void of trainIds, which encoding=train"),
        (grey(7, 26), "train_ids", "not 0..18 or 255, the first 26.*as an id it is car"),
        (grey(7), "colors", "is grey, where colours are expected"),
        (Mask(COLORS[IDS]), "ids", "is RGB, where label ids are expected"),
        (
            Mask(np.array([[[128, 64, 128], [128, 64, 120]]], np.uint8)),
            "colors",
            r"x 1, y 0: \(128, 64, 120\); the nearest is road \(128, 64, 128\)",
        ),
    ],
)
def test_unknown_values_are_named_with_the_nearest_class(
    picture: Mask, encoding: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        to_numbers(picture, encoding, CITYSCAPES)


def test_a_blank_palette_mask_fits_a_folder_of_colours() -> None:
    image = Image.new("P", (4, 3))
    image.putpalette(PALETTE)
    blank = decode(png(image), CITYSCAPES)
    assert detect([("a.png", Mask(COLORS[IDS])), ("blank.png", blank)], CITYSCAPES) == "colors"
    assert (to_numbers(blank, "colors", CITYSCAPES) == 0).all()


def test_pictures_that_are_no_masks_say_what_they_are() -> None:
    whole = png(Image.fromarray(np.resize(IDS, (64, 64))))
    cases = {
        b"GIF89a": "is not a PNG",
        whole[: len(whole) // 2]: "is not a whole PNG",
        png(Image.fromarray(IDS.astype(np.uint16))): "16 bits per channel: instanceIds.*labelIds",
        png(Image.fromarray(IDS > 3)): "must be grey of 8 bits",
        claiming(whole, 0, 64): r"is 64x0 \(height x width\), without a pixel",
        claiming(whole, 20_000, 10_000): r"is 10000x20000 .*, more than the 178956970 pixels",
    }
    for data, message in cases.items():
        with pytest.raises(ValueError, match=message):
            decode(data, CITYSCAPES)
