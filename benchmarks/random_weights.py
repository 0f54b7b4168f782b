"""Random weights that compute as trained ones do."""

from functools import cache

import torch
from torch import nn

from maskrestore.data.segmap import generator_input, one_hot
from maskrestore.models.spade import SPADEGenerator

STEPS = 12
"""Forward passes in training mode, each a step of the power iteration."""
SMALL = (64, 128)
GAINS = {"fc": 1.0, "shared": 6.0, "gamma": 3.0, "beta": 3.0, "conv_img": 0.3}
"""Standard deviation of the weights of the convolutions without spectral norm, times the root of
how many a number of their results comes from. With SPADE's own, far smaller, what the blocks see of
a mask counts for nothing in the image, and a wrong gradient of theirs would be seen in none."""


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
    for name, module in small.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
        if isinstance(module, nn.Conv2d) and not hasattr(module, "weight_orig"):
            [gain] = [gain for part, gain in GAINS.items() if part in name]
            nn.init.normal_(module.weight, std=gain / module.weight[0].numel() ** 0.5)
    blocks = torch.randint(0, num_classes, (STEPS, 2, SMALL[0] // 16, SMALL[1] // 16))
    blocks = blocks.repeat_interleave(16, 2).repeat_interleave(16, 3)
    with torch.no_grad():
        for label_map in blocks:
            small.train()(generator_input(one_hot(label_map, num_classes), "argmax"))
    return small
