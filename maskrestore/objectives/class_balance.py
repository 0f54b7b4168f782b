"""How much each class counts in the cross entropy."""

from collections.abc import Sequence

import torch
from torch import Tensor

MOST = 10.0
"""The largest weight: a class of a handful of pixels must not be all that a step looks at."""


def class_weights(class_pixels: Sequence[int], exponent: float) -> Tensor:
    """Pixels of each class in the training masks -> its weight, float32 [num_classes].

    (share of the pixels) ** -exponent, scaled so that the mean over all pixels is 1, and at most
    MOST, which is also the weight of a class that no mask has. exponent 0: all 1; 0.5: the root of
    the inverse frequency (Mahajan et al. 2018, section 2.2); 1: each class counts the same.
    """
    shares = torch.tensor(class_pixels, dtype=torch.float64)
    shares = shares / shares.sum().clamp(min=1)
    weights = shares.clamp(min=torch.finfo(shares.dtype).tiny) ** -exponent
    weights = weights / (shares * weights).sum().clamp(min=torch.finfo(shares.dtype).tiny)
    return weights.clamp(max=MOST).float()
