"""encodings.py: what palettes, transparent pixels and few values say, and what they leave open."""

import numpy as np
import pytest
from label_sets import CITYSCAPES, LABELS

from maskrestore.data.pictures import Mask
from maskrestore.inference.encodings import Pixels, detect, to_numbers

COLORS = np.array([label.color for label in LABELS], np.uint8)
OF_TRAIN_IDS = np.array([label.color for label in LABELS if label.evaluated], np.uint8)


def grey(*values: int, transparent: tuple[int, ...] = ()) -> Mask:
    pixels = np.array([values], np.uint8)
    return Mask(pixels, None, np.isin(pixels, transparent) if transparent else None)


def in_palette(values: list[int], colors: Pixels, **others: tuple[int, int, int]) -> Mask:
    """others: further entries of the palette, as i34=(0, 0, 142)."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(colors)] = colors
    for name, color in others.items():
        palette[int(name[1:])] = color
    return Mask(np.array([values], np.uint8), palette)


@pytest.mark.parametrize(
    "mask",
    [
        in_palette([1, 4, 7, 18, 26], COLORS),
        in_palette([1, 2, 3, 4], COLORS),  # all of them black
        in_palette([4, 7], COLORS, i4=(20, 20, 20), i34=(0, 0, 142)),  # as GTA5 has static
        in_palette([0, 7], COLORS[:8]),  # cut off after the last index
        in_palette([0, 7, 33], np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)),
    ],
)
def test_a_palette_with_the_labels_colours_at_their_ids_holds_ids(mask: Mask) -> None:
    assert detect([("a.png", mask)], CITYSCAPES) == "ids"
    assert np.array_equal(to_numbers(mask, "ids", CITYSCAPES), mask.pixels)


@pytest.mark.parametrize("void", [(0, 0, 0), (255, 255, 255), (224, 224, 192)])
def test_a_palette_with_the_labels_colours_at_their_train_ids_holds_these(
    void: tuple[int, int, int],
) -> None:
    mask = in_palette([0, 1, 13, 255], OF_TRAIN_IDS, i255=void)
    assert detect([("a.png", mask)], CITYSCAPES) == "train_ids"
    assert to_numbers(mask, "train_ids", CITYSCAPES).tolist() == [[7, 8, 26, 0]]


def test_a_palette_of_colours_at_any_places_holds_colours() -> None:
    mask = in_palette([0, 1, 2], COLORS[[26, 0, 7]])
    assert detect([("a.png", mask)], CITYSCAPES) == "colors"
    assert to_numbers(mask, "colors", CITYSCAPES).tolist() == [[26, 0, 7]]


def test_colours_that_a_program_has_saved_as_grey_are_colours() -> None:
    """Building, pole and black: there is nothing else in the mask."""
    mask = grey(0, 70, 153)
    assert detect([("a.png", mask)], CITYSCAPES) == "colors"
    assert detect([("a.png", mask), ("b.png", Mask(COLORS[[[7, 26]]]))], CITYSCAPES) == "colors"
    assert to_numbers(mask, "colors", CITYSCAPES).tolist() == [[0, 11, 17]]
    assert detect([("a.png", in_palette([0, 1], COLORS[[0, 11]]))], CITYSCAPES) == "colors"
    with pytest.raises(ValueError, match="is grey, where colours are expected"):
        to_numbers(grey(70, 71), "colors", CITYSCAPES)


@pytest.mark.parametrize(
    ("masks", "values", "choices"),
    [
        ([grey(0, 255)], "0 and 255", "write encoding=train_ids if 0 is road"),
        ([grey(0, 255), grey(0, 0), grey(255, 255)], "0 and 255", "encoding=train_ids"),
        ([grey(255)], "255", "encoding=train_ids"),
        ([grey(0, 1)], "0 and 1", "encoding=ids if 1 is ego vehicle .* encoding=train_ids if"),
        ([grey(0, 1, 255)], "0 and 1 and 255", "encoding=train_ids"),
        ([grey(0, 7, 255, transparent=(7,))], "0 and 255", "encoding=train_ids"),
    ],
)
def test_what_may_be_a_binary_mask_is_asked_for(
    masks: list[Mask], values: str, choices: str
) -> None:
    with pytest.raises(
        ValueError, match=f"no values but {values} in 0.png.*, as binary .*{choices}"
    ):
        detect([(f"{number}.png", mask) for number, mask in enumerate(masks)], CITYSCAPES)


def test_few_values_are_no_riddle_where_something_else_tells() -> None:
    assert detect([("a_labelTrainIds.png", grey(0, 255))], CITYSCAPES) == "train_ids"
    assert detect([("a.png", grey(0, 255)), ("b.png", grey(0, 5))], CITYSCAPES) == "train_ids"
    assert detect([("a.png", grey(0, 1)), ("b.png", grey(0, 7))], CITYSCAPES) == "ids"
    assert detect([("a.png", in_palette([0, 1, 255], OF_TRAIN_IDS))], CITYSCAPES) == "train_ids"
    assert detect([("a.png", in_palette([0, 1], COLORS))], CITYSCAPES) == "ids"


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        (in_palette([7, 8], COLORS), grey(7, 255), r"1.png .*\(255\), 0.png ids, by its palette"),
        (
            in_palette([0, 1], OF_TRAIN_IDS),
            grey(26),
            r"0.png .*\(by its palette\), 1.png the id 26",
        ),
        (in_palette([7], COLORS), in_palette([0], OF_TRAIN_IDS), "1.png .*0.png ids, by its"),
        (in_palette([7], COLORS), Mask(COLORS[[[7]]]), "1.png holds colours, 0.png ids"),
        (in_palette([1, 2], COLORS * 0), grey(7), "0.png has a palette of other colours"),
        (in_palette([0, 1], COLORS * 0 + [[9] * 3] * 34), grey(7), "0.png has a palette of other"),
    ],
)
def test_masks_that_contradict_each_other_are_named(one: Mask, other: Mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detect([("0.png", one), ("1.png", other)], CITYSCAPES)


def test_transparent_pixels_are_not_annotated_whatever_is_beneath() -> None:
    assert to_numbers(grey(7, 200, transparent=(200,)), "ids", CITYSCAPES).tolist() == [[7, 0]]
    assert to_numbers(grey(0, 77, transparent=(77,)), "train_ids", CITYSCAPES).tolist() == [[7, 0]]
    seen = np.array([[True, False]])
    colored = Mask(np.array([[[128, 64, 128], [255, 255, 255]]], np.uint8), None, ~seen)
    assert detect([("a.png", colored)], CITYSCAPES) == "colors"
    assert to_numbers(colored, "colors", CITYSCAPES).tolist() == [[7, 0]]
    assert detect([("a.png", grey(7, 26, 255, transparent=(255,)))], CITYSCAPES) == "ids"
    assert (
        detect([("a.png", grey(3, transparent=(3,))), ("b.png", colored)], CITYSCAPES) == "colors"
    )
