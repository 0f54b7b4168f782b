"""The untrained baselines: label maps restored by one line of code each. Home of scikit-image."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import first_kept
from maskrestore.data.prior import nearest_annotated, nearest_label, small_map_prior


def fill(label_map: Tensor, valid: Tensor) -> Tensor:
    """Each unannotated pixel takes the label of the nearest annotated one (Euclidean distance).

    label_map int64 [B,H,W], valid bool [B,1,H,W] -> int64 [B,H,W]; a map without any annotated
    pixel stays as it is.
    """
    place, _ = nearest_annotated(valid[:, 0])
    known = valid.flatten(1).any(1)[:, None, None]
    return torch.where(known, nearest_label(label_map, place), label_map)


def random_walker(label_map: Tensor, seeds: Tensor, image: Tensor) -> Tensor:
    """Each pixel takes the label that a walk from it is likeliest to meet first, where steps over
    the edges of the image are unlikely (Grady 2006; scikit-image's beta of 130, which was better
    than 1000 on a held-out part of CamVid's training images).

    label_map int64 [B,H,W], seeds bool [B,H,W], image uint8 [B,3,H,W] -> int64 [B,H,W]. Of a map
    without seeds or with those of one class, or an image of one colour, the nearest seed's label.
    """
    from skimage import segmentation  # the only baseline that needs it

    restored = fill(label_map, seeds[:, None])
    parts = (label_map, seeds, image.permute(0, 2, 3, 1), restored)
    for labels, known, pixels, result in zip(*parts, strict=True):
        classes, number = labels[known].unique(return_inverse=True)
        if len(classes) < 2 or (pixels == pixels[0, 0]).all():
            continue
        start = torch.zeros_like(labels).masked_scatter_(known, number + 1)
        walked = segmentation.random_walker(
            pixels.cpu().numpy() / 255,
            start.cpu().numpy(),
            mode="cg_j",
            prob_tol=1,  # probabilities may round beyond 1: only the largest counts
            channel_axis=-1,
        )
        result.copy_(classes[torch.from_numpy(walked.astype(np.int64) - 1).to(classes.device)])
    return restored


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


def bilinear(
    label_map: Tensor,
    num_classes: int,
    factor: int,
    sampling: str,
    annotated: Tensor | None = None,
) -> Tensor:
    """The likeliest class where the kept pixels' one-hot maps are interpolated bilinearly; of those
    that are annotated (bool [B,1,H,W]), where not all are, as prior.small_map_prior has it.

    int64 [B,H,W] at full size, each kept pixel repeated over its block -> int64 [B,H,W]. Before the
    first kept pixel and behind the last nothing changes. Of equally likely classes the first.
    """
    first = first_kept(factor, sampling)
    return small_map_prior(label_map, num_classes, factor, first, annotated)[0].argmax(1)


def restore_untrained(config: RunConfig, label_map: Tensor, valid: Tensor, image: Tensor) -> Tensor:
    """The baseline of the config applied to a degraded mask: int64 [B,H,W] -> int64 [B,H,W]."""
    factor, sampling = config.degrade.factor, config.degrade.sampling
    if config.baseline == "random_walker":
        seeds = valid[:, 0]
        if config.task == "super_resolution":  # the kept pixels alone lie where they were
            kept = torch.zeros_like(seeds)
            first = first_kept(factor, sampling)
            kept[:, first::factor, first::factor] = True
            seeds = seeds & kept
        return random_walker(label_map, seeds, image)
    if config.baseline == "fill":
        return fill(label_map, valid)
    if config.baseline == "realign":
        return realign(label_map, factor, sampling)
    if config.baseline == "bilinear":
        labels = config.data.labels
        annotated = None if labels.has_unlabeled_class else valid
        return bilinear(label_map, labels.num_classes, factor, sampling, annotated)
    return label_map
