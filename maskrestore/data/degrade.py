"""Incomplete masks, and what restores them without any training.

A degraded mask is a label map plus a validity map: which of its pixels somebody annotated.
"""

import torch
from torch import Tensor

from maskrestore.config.labels import UNANNOTATED
from maskrestore.config.run import RunConfig
from maskrestore.data.prior import polygon_prior, small_map_prior
from maskrestore.data.segmap import one_hot, to_unit_range


def nearest_downsample(label_map: Tensor, factor: int, sampling: str) -> Tensor:
    """int64 [B,H,W] -> int64 [B,H/factor,W/factor], one pixel kept of each factor x factor block.

    sampling=corner keeps its top left pixel, as F.interpolate(mode="nearest") does: the only input
    that reproduces the paper's unrestored row. sampling=center keeps pixel (factor//2, factor//2),
    as PIL's NEAREST and "nearest-exact" do.
    """
    height, width = label_map.shape[1:]
    if height % factor or width % factor:
        raise ValueError(f"{height}x{width} is not a multiple of factor={factor}")
    start = first_kept(factor, sampling)
    return label_map[:, start::factor, start::factor]


def first_kept(factor: int, sampling: str) -> int:
    """Row and column of the first pixel that is kept; the others follow at every factor pixels."""
    return 0 if sampling == "corner" else factor // 2


def nearest_upsample(label_map: Tensor, factor: int) -> Tensor:
    """int64 [B,H,W] -> int64 [B,H*factor,W*factor], each label repeated."""
    return label_map.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def degrade(config: RunConfig, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """The incomplete mask of the task, at full size.

    Returns its label map, int64 [B,H,W], and where it is annotated, bool [B,1,H,W].
    super_resolution: `fine` made degrade.factor times smaller and back. All of it is valid where
    the label set has a class for what is not annotated; else valid is False at that.
    densify: `coarse`; where it is 0 nobody annotated, and valid is False.
    """
    if config.task == "super_resolution":
        factor = config.degrade.factor
        small = nearest_downsample(fine, factor, config.degrade.sampling)
        label_map = nearest_upsample(small, factor)
        if config.data.labels.has_unlabeled_class:
            return label_map, torch.ones_like(label_map, dtype=torch.bool)[:, None]
        return label_map, (label_map != UNANNOTATED)[:, None]
    return coarse, (coarse != UNANNOTATED)[:, None]


def degraded_segmap(label_map: Tensor, num_classes: int, valid: Tensor) -> Tensor:
    """What the mask generator sees: one-hot float [B,C,H,W], all zero where nobody annotated."""
    return one_hot(label_map, num_classes) * valid


def mask_generator_input(
    config: RunConfig, label_map: Tensor, valid: Tensor, image: Tensor
) -> tuple[Tensor, ...]:
    """What the mask generator is called with, float32: class probabilities [B,C,H,W] that training
    starts at, which pixels are annotated [B,1,H,W], with mask_generator.start=prior how close the
    nearest annotated pixel is [B,1,H,W] in 0..1, and with condition=mask_image or image the real
    image [B,3,H,W] in [-1,1].

    label_map int64 [B,H,W], valid bool [B,1,H,W], image uint8 [B,3,H,W]. condition=image hides the
    mask: nothing of it counts as annotated.
    """
    seen: tuple[Tensor, ...]
    num_classes = config.data.labels.num_classes
    if config.condition == "image":
        valid = torch.zeros_like(valid)
    if config.mask_generator.start == "input":
        seen = degraded_segmap(label_map, num_classes, valid), valid.float()
    else:
        if config.task == "super_resolution" and config.condition != "image":
            factor, sampling = config.degrade.factor, config.degrade.sampling
            first = first_kept(factor, sampling)
            annotated = None if config.data.labels.has_unlabeled_class else valid
            segmap, near = small_map_prior(label_map, num_classes, factor, first, annotated)
        else:
            segmap, near = polygon_prior(label_map, num_classes, valid)
        seen = segmap, valid.float(), near
    return (*seen, to_unit_range(image)) if config.image_channels else seen
