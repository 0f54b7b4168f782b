"""A label set as arrays: what turns a mask's values and colours into class numbers, and back."""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrestore.config.labels import UNKNOWN, LabelSet

NUM_VALUES = 65536
"""Of a mask of 16 bits."""


@cache
def colors_of(labels: LabelSet) -> NDArray[np.uint8]:
    """uint8 [C,3]: each number's RGB colour."""
    return np.array([entry.color for entry in labels.by_number], np.uint8)


@cache
def ids_of(labels: LabelSet) -> NDArray[Any]:
    """[C] of as many bits as its masks need: what is written for each number."""
    ids = [entry.id for entry in labels.by_number]
    return np.array(ids, np.uint8 if labels.bits == 8 else np.uint16)


@cache
def numbers_of(labels: LabelSet) -> NDArray[np.uint8]:
    """uint8 [65536]: a mask's value -> its number, or UNKNOWN."""
    table = np.full(NUM_VALUES, UNKNOWN, np.uint8)
    table[list(labels.numbers)] = list(labels.numbers.values())
    return table
