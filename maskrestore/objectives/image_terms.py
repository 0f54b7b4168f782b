"""When, where and how much the image terms of a restoration count (ImageLossConfig)."""

from typing import Any

import torch
from torch import Tensor

from maskrestore.config.run import RunConfig
from maskrestore.data.loader import Batch


def are_due(config: RunConfig, batch: Batch) -> bool:
    """Whether the image terms count in the step that this batch is a part of: the same on every
    process, since it is asked of the step's first image."""
    if not config.image_loss.start:
        return True
    first = batch.positions[0] // config.training.batch_size * config.training.batch_size
    return first >= config.image_loss.start * config.total_images


class _Balanced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
        ctx.ratio = ratio
        return logits.view_as(logits), logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, of_mask: Tensor, of_image: Tensor) -> tuple[Tensor, None]:
        # In float32: the squares of a scaled loss's gradients are beyond fp16.
        lengths = [gradient.flatten(1).float().norm(dim=1) for gradient in (of_mask, of_image)]
        factor = ctx.ratio * lengths[0] / lengths[1]
        # Without a gradient there is nothing to lengthen; one that is not finite stays so.
        factor = torch.where(lengths[1] == 0, 1.0, factor)
        return of_mask + (factor[:, None, None, None] * of_image).to(of_mask.dtype), None


def balanced(logits: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """float [B,C,H,W] twice, for the mask's term and for the image terms: the gradient through the
    second is made `ratio` times as long (L2) as that through the first, sample by sample, so it is
    the same however a batch is split among processes, and whatever factor a loss is scaled by."""
    mask_logits, image_logits = _Balanced.apply(logits, ratio)
    return mask_logits, image_logits


def open_to_change(logits: Tensor, valid: Tensor) -> Tensor:
    """float [B,C,H,W] with a gradient only where nobody annotated (bool [B,1,H,W] is False)."""
    return torch.where(valid, logits.detach(), logits)
