"""A stand-in for the IoU of restored masks that has a gradient."""

import torch
from torch import Tensor


def lovasz_softmax(probabilities: Tensor, target: Tensor, classes: Tensor) -> Tensor:
    """The Lovász-Softmax loss of each image (Berman et al. 2018, equation 11), 0..1.

    probabilities: float32 [B,C,H,W]; target: int64 [B,H,W] class numbers, negative where nothing is
    to be compared with; classes: the numbers of those that can occur. Returns float32 [B]: the mean
    over the classes that an image has, 0 for an image of which nothing is to be compared. Images
    stand alone, so that their mean is the same however a batch is split among processes.
    """
    is_class = (target[:, None] == classes[:, None, None]).flatten(2)  # [B,K,H*W]
    errors = (is_class.float() - probabilities.index_select(1, classes).flatten(2)).abs()
    errors = errors * (target >= 0).flatten(1)[:, None]
    has = is_class.any(-1)  # [B,K]
    # The loss is piecewise linear in the errors: their order alone decides what each counts.
    losses = (errors * _slopes(errors.detach(), is_class)).sum(-1) * has
    return losses.sum(1) / has.sum(1).clamp(min=1)


def _slopes(errors: Tensor, is_class: Tensor) -> Tensor:
    """How much the Jaccard loss grows as one more pixel is wrong, from the largest error down."""
    order = errors.sort(dim=-1, descending=True, stable=True).indices
    # Counted as integers: PyTorch adds up floats on a GPU in no fixed order.
    missed = is_class.gather(-1, order).cumsum(-1, dtype=torch.int32).to(errors.dtype)
    size = missed[..., -1:]
    count = torch.arange(1, errors.shape[-1] + 1, device=errors.device)
    jaccard_loss = 1 - (size - missed) / (size + count - missed)
    steps = jaccard_loss.diff(dim=-1, prepend=torch.zeros_like(size))
    return torch.zeros_like(errors).scatter(-1, order, steps)
