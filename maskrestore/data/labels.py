"""The Cityscapes label table: ids 0..33, the 19 evaluated classes, colours.

Source: the label definition of the Cityscapes benchmark (cityscapesScripts, helpers/labels.py).
License plate (id -1) never occurs in a labelIds PNG and is not a class here.
"""

from typing import NamedTuple


class Label(NamedTuple):
    """One row: raw id, name, train id (255 = not evaluated), "has instances", RGB colour 0..255."""

    id: int
    name: str
    train_id: int
    has_instances: bool
    color: tuple[int, int, int]


LABELS = (
    Label(0, "unlabeled", 255, False, (0, 0, 0)),
    Label(1, "ego vehicle", 255, False, (0, 0, 0)),
    Label(2, "rectification border", 255, False, (0, 0, 0)),
    Label(3, "out of roi", 255, False, (0, 0, 0)),
    Label(4, "static", 255, False, (0, 0, 0)),
    Label(5, "dynamic", 255, False, (111, 74, 0)),
    Label(6, "ground", 255, False, (81, 0, 81)),
    Label(7, "road", 0, False, (128, 64, 128)),
    Label(8, "sidewalk", 1, False, (244, 35, 232)),
    Label(9, "parking", 255, False, (250, 170, 160)),
    Label(10, "rail track", 255, False, (230, 150, 140)),
    Label(11, "building", 2, False, (70, 70, 70)),
    Label(12, "wall", 3, False, (102, 102, 156)),
    Label(13, "fence", 4, False, (190, 153, 153)),
    Label(14, "guard rail", 255, False, (180, 165, 180)),
    Label(15, "bridge", 255, False, (150, 100, 100)),
    Label(16, "tunnel", 255, False, (150, 120, 90)),
    Label(17, "pole", 5, False, (153, 153, 153)),
    Label(18, "polegroup", 255, False, (153, 153, 153)),
    Label(19, "traffic light", 6, False, (250, 170, 30)),
    Label(20, "traffic sign", 7, False, (220, 220, 0)),
    Label(21, "vegetation", 8, False, (107, 142, 35)),
    Label(22, "terrain", 9, False, (152, 251, 152)),
    Label(23, "sky", 10, False, (70, 130, 180)),
    Label(24, "person", 11, True, (220, 20, 60)),
    Label(25, "rider", 12, True, (255, 0, 0)),
    Label(26, "car", 13, True, (0, 0, 142)),
    Label(27, "truck", 14, True, (0, 0, 70)),
    Label(28, "bus", 15, True, (0, 60, 100)),
    Label(29, "caravan", 255, True, (0, 0, 90)),
    Label(30, "trailer", 255, True, (0, 0, 110)),
    Label(31, "train", 16, True, (0, 80, 100)),
    Label(32, "motorcycle", 17, True, (0, 0, 230)),
    Label(33, "bicycle", 18, True, (119, 11, 32)),
)

NUM_CLASSES = len(LABELS)
"""34: the ids that a mask may hold."""

UNANNOTATED = 0
"""In a coarse mask id 0 means "nobody annotated this pixel", not a class."""

EVALUATED_IDS = tuple(label.id for label in LABELS if label.train_id != 255)
"""The raw ids of the 19 classes that the official benchmark averages over, in train id order."""

LABEL_ID = {label.name: label.id for label in LABELS}

KNOWN_BLACK = "troisdorf_000000_000073"
"""Key of the train_extra picture that was published black; its mask shows nothing."""
