"""The untrained baselines: label maps restored by one line of code each."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import _first_kept
from maskrestore.data.labels import NUM_CLASSES


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
