"""Incomplete masks, and what restores them without any training.

A degraded mask is a label map plus a validity map: which of its pixels somebody annotated.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from maskrestore.config import RunConfig
from maskrestore.labels import NUM_CLASSES, UNANNOTATED
from maskrestore.segmap import one_hot, to_unit_range


def nearest_downsample(label_map: Tensor, factor: int, sampling: str) -> Tensor:
    """int64 [B,H,W] -> int64 [B,H/factor,W/factor], one pixel kept of each factor x factor block.

    sampling=corner keeps its top left pixel, as F.interpolate(mode="nearest") does: the only input
    that reproduces the paper's unrestored row. sampling=center keeps pixel (factor//2, factor//2),
    as PIL's NEAREST and "nearest-exact" do.
    """
    height, width = label_map.shape[1:]
    if height % factor or width % factor:
        raise ValueError(f"{height}x{width} is not a multiple of factor={factor}")
    start = _first_kept(factor, sampling)
    return label_map[:, start::factor, start::factor]


def _first_kept(factor: int, sampling: str) -> int:
    """Row and column of the first pixel that is kept; the others follow at every factor pixels."""
    return 0 if sampling == "corner" else factor // 2


def nearest_upsample(label_map: Tensor, factor: int) -> Tensor:
    """int64 [B,H,W] -> int64 [B,H*factor,W*factor], each label repeated."""
    return label_map.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def degrade(config: RunConfig, fine: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
    """The incomplete mask of the task, at full size.

    Returns its label map, int64 [B,H,W], and where it is annotated, bool [B,1,H,W].
    super_resolution: `fine` made degrade.factor times smaller and back; all pixels are valid.
    densify: `coarse`; where its id is 0 nobody annotated, and valid is False.
    """
    if config.task == "super_resolution":
        factor = config.degrade.factor
        small = nearest_downsample(fine, factor, config.degrade.sampling)
        label_map = nearest_upsample(small, factor)
        return label_map, torch.ones_like(label_map, dtype=torch.bool)[:, None]
    return coarse, (coarse != UNANNOTATED)[:, None]


def degraded_segmap(label_map: Tensor, valid: Tensor) -> Tensor:
    """What the mask generator sees: one-hot float [B,34,H,W], all zero where nobody annotated."""
    return one_hot(label_map) * valid


def mask_generator_input(
    config: RunConfig, label_map: Tensor, valid: Tensor, image: Tensor
) -> tuple[Tensor, ...]:
    """What the mask generator is called with: `degraded_segmap`, valid as float32 [B,1,H,W], and
    with condition=mask_image the real image, float32 [B,3,H,W] in [-1,1].

    label_map int64 [B,H,W], valid bool [B,1,H,W], image uint8 [B,3,H,W].
    """
    mask = degraded_segmap(label_map, valid), valid.float()
    return (*mask, to_unit_range(image)) if config.image_channels else mask


def fill(label_map: Tensor, valid: Tensor) -> Tensor:
    """Each unannotated pixel takes the label of the nearest annotated one (Euclidean distance).

    label_map int64 [B,H,W], valid bool [B,1,H,W] -> int64 [B,H,W]; a map without any annotated
    pixel stays as it is.
    """
    filled = label_map.cpu().numpy().copy()
    for label, annotated in zip(filled, valid[:, 0].cpu().numpy(), strict=True):
        if annotated.any() and not annotated.all():
            nearest = ndimage.distance_transform_edt(
                ~annotated, return_distances=False, return_indices=True
            )
            label[...] = label[tuple(nearest)]
    return torch.from_numpy(np.ascontiguousarray(filled)).to(label_map.device)


def realign(label_map: Tensor, factor: int, sampling: str) -> Tensor:
    """Undo the shift of corner sampling: int64 [B,H,W] at full size -> int64 [B,H,W].

    The kept pixel of a block lies at its corner, so repeating it over the block moves everything
    by (factor-1)/2 pixels down and right. Each pixel takes the label of the kept pixel nearest to
    it instead. At centre sampling the shift is at most half a pixel and nothing changes.
    """
    if sampling != "corner":
        return label_map
    shift = factor // 2
    padded = F.pad(label_map[:, None].double(), (0, shift, 0, shift), mode="replicate")
    return padded[:, 0, shift:, shift:].long()


def bilinear(label_map: Tensor, factor: int, sampling: str) -> Tensor:
    """The likeliest class where the kept pixels' one-hot maps are interpolated bilinearly.

    int64 [B,H,W] at full size, each kept pixel repeated over its block -> int64 [B,H,W]. Before the
    first kept pixel and behind the last nothing changes. Of equally likely classes the lower id.
    """
    height, width = label_map.shape[1:]
    start = _first_kept(factor, sampling)
    rows = _kept_around(height, factor, start, label_map.device)
    columns = _kept_around(width, factor, start, label_map.device)
    # At most four classes can win, those of the kept pixels around; whole numbers tie exactly.
    weights = torch.stack([y[:, None] * x for _, y in rows for _, x in columns])
    restored = torch.empty_like(label_map)
    for small, whole in zip(label_map[:, ::factor, ::factor], restored, strict=True):
        labels = torch.stack([small[i[:, None], j] for i, _ in rows for j, _ in columns])
        scores = torch.stack([((labels == label) * weights).sum(0) for label in labels])
        best = (scores * NUM_CLASSES - labels).argmax(0, keepdim=True)
        whole.copy_(labels.gather(0, best)[0])
    return restored


def _kept_around(
    size: int, factor: int, start: int, device: torch.device
) -> tuple[tuple[Tensor, Tensor], ...]:
    """For each pixel of a side of `size`: the kept one before it and the one behind it, int64
    [size], each with its weight, int64 [size], both together `factor`."""
    last = size // factor - 1
    place = (torch.arange(size, device=device) - start).clamp(0, last * factor)
    before, weight = place // factor, place % factor
    return (before, factor - weight), ((before + 1).clamp(max=last), weight)


def restore_untrained(config: RunConfig, label_map: Tensor, valid: Tensor) -> Tensor:
    """The baseline of the config applied to a degraded mask: int64 [B,H,W] -> int64 [B,H,W]."""
    if config.baseline == "fill":
        return fill(label_map, valid)
    if config.baseline == "realign":
        return realign(label_map, config.degrade.factor, config.degrade.sampling)
    if config.baseline == "bilinear":
        return bilinear(label_map, config.degrade.factor, config.degrade.sampling)
    return label_map
