"""Random weights that compute as trained ones do."""

from functools import cache

import torch
from torch import nn

from maskrestore.data.segmap import generator_input, one_hot
from maskrestore.models.spade import SPADEGenerator

STEPS = 12
"""Forward passes in training mode, each a step of the power iteration."""
SMALL = (64, 128)


def calibrated(
    num_classes: int, width: int, hidden: int, size: tuple[int, int], seed: int = 0
) -> SPADEGenerator:
    """A SPADE generator with spectral norms near 1 and running statistics that fit. Fresh from its
    constructor activations grow to 1e27, and in fp16 nothing is a number."""
    whole = SPADEGenerator(num_classes + 2, width, hidden, size)
    whole.load_state_dict(_small(num_classes, width, hidden, seed).state_dict())
    return whole


@cache
def _small(num_classes: int, width: int, hidden: int, seed: int) -> SPADEGenerator:
    torch.manual_seed(seed)
    small = SPADEGenerator(num_classes + 2, width, hidden, SMALL)
    for module in small.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
    blocks = torch.randint(0, num_classes, (STEPS, 2, SMALL[0] // 16, SMALL[1] // 16))
    blocks = blocks.repeat_interleave(16, 2).repeat_interleave(16, 3)
    with torch.no_grad():
        for label_map in blocks:
            small.train()(generator_input(one_hot(label_map, num_classes), "argmax"))
    return small
