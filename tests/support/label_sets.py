"""The label set of Cityscapes as the tests name its parts, and made-up ones of some number of
classes."""

import torch
from torch import Tensor

from maskrestore.config.labels import LabelClass, LabelSet, load_labels
from maskrestore.data import segmap

CITYSCAPES = load_labels("cityscapes")
LABELS = CITYSCAPES.by_number
LABEL_ID = CITYSCAPES.number
NUM_CLASSES = CITYSCAPES.num_classes
EVALUATED_IDS = CITYSCAPES.evaluated
TRAIN_IDS = [EVALUATED_IDS.index(n) if n in EVALUATED_IDS else 255 for n in range(NUM_CLASSES)]
"""Of each id; 255 where it is not evaluated."""


def one_hot(label_map: Tensor) -> Tensor:
    """int64 [B,H,W] ids of Cityscapes -> float32 [B,34,H,W]."""
    return segmap.one_hot(label_map, NUM_CLASSES)


def numbered(num_classes: int) -> LabelSet:
    """Classes 0..num_classes-1, of which the first one is what nobody annotated, as in
    Cityscapes."""
    colors = torch.arange(3 * num_classes).view(-1, 3).tolist()
    classes = [
        LabelClass(id=number, name=f"class {number}", color=tuple(color), evaluated=number > 0)
        for number, color in enumerate(colors)
    ]
    return LabelSet(name=f"{num_classes} classes", not_annotated=(0,), classes=tuple(classes))
