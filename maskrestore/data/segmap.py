"""Label maps and segmentation maps: one-hot, edges, the image generator's input, colours."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.config.labels import LabelSet
from maskrestore.data.label_tables import colors_of


def one_hot(label_map: Tensor, num_classes: int) -> Tensor:
    """int64 [B,H,W], numbers 0..num_classes-1 -> float32 [B,num_classes,H,W] of zeros and ones."""
    batch, height, width = label_map.shape
    segmap = torch.zeros(batch, num_classes, height, width, device=label_map.device)
    return segmap.scatter_(1, label_map[:, None], 1.0)


def edge_map(ids: Tensor) -> Tensor:
    """int [B,H,W] ids -> float32 [B,1,H,W], 1 where a pixel differs from one of its 4 neighbours.

    Both sides of a border are marked, as in the input of the official SPADE generator.
    """
    edges = torch.zeros(ids.shape, dtype=torch.bool, device=ids.device)
    vertical = ids[:, 1:] != ids[:, :-1]
    horizontal = ids[:, :, 1:] != ids[:, :, :-1]
    edges[:, 1:] |= vertical
    edges[:, :-1] |= vertical
    edges[:, :, 1:] |= horizontal
    edges[:, :, :-1] |= horizontal
    return edges[:, None].float()


def soft_edge_map(segmap: Tensor) -> Tensor:
    """Soft segmap [B,C,H,W] that sums to 1 over C -> [B,1,H,W] in 0..1, with a gradient.

    The largest 1 - sum_c p_c(x) p_c(x') over the 4 neighbours x' of x: the probability that the
    two pixels differ in class. Equals `edge_map` on one-hot maps.
    """
    vertical = 1 - (segmap[:, :, 1:] * segmap[:, :, :-1]).sum(1, keepdim=True)
    horizontal = 1 - (segmap[..., 1:] * segmap[..., :-1]).sum(1, keepdim=True)
    from_above, from_below = F.pad(vertical, (0, 0, 1, 0)), F.pad(vertical, (0, 0, 0, 1))
    from_left, from_right = F.pad(horizontal, (1, 0)), F.pad(horizontal, (0, 1))
    return torch.stack([from_above, from_below, from_left, from_right]).amax(0)


def relaxed_segmap(
    restored_logits: Tensor, relaxation: str = "softmax", seeds: Sequence[int] = ()
) -> Tensor:
    """What of float [B,C,H,W] logits the image generator sees in training: float32 [B,C,H,W].

    softmax: the probabilities. straight_through: one-hot, the likeliest class; its gradient is that
    of the probabilities (Bengio et al. 2013). gumbel: one-hot, a class drawn from them, by the
    straight-through Gumbel-softmax at temperature 1 (Jang et al. 2017). seeds: of the draws of each
    sample, for gumbel alone; equal on devices of one kind.
    """
    logits = restored_logits.float()
    if relaxation == "gumbel":
        logits = logits + _gumbel_noise(logits, seeds)
    soft = logits.softmax(1)
    if relaxation == "softmax":
        return soft
    # In this order the difference is 0 to the last bit.
    return one_hot(soft.argmax(1), soft.shape[1]) + (soft - soft.detach())


def _gumbel_noise(like: Tensor, seeds: Sequence[int]) -> Tensor:
    noise = torch.empty(like.shape, device=like.device)
    generator = torch.Generator(like.device)
    for of_sample, seed in zip(noise, seeds, strict=True):
        of_sample.exponential_(generator=generator.manual_seed(seed))
    return -noise.log()


def generator_input(segmap: Tensor, edges: str | None, instance: Tensor | None = None) -> Tensor:
    """What an image generator sees: [B,C,H,W] classes -> [B,C+2,H,W], or [B,C+1,H,W] without edges.

    Channel C is the label behind Cityscapes' 34 in the official generators, never lit in their
    training, and stays zero; the last channel is the edge map. edges: argmax | soft | zeros |
    instance, or None; instance (int [B,H,W]) is needed for the last one only.
    """
    never_lit = torch.zeros_like(segmap[:, :1])
    if edges is None:
        return torch.cat([segmap, never_lit], dim=1)
    if edges == "instance":
        if instance is None:
            raise ValueError("edges=instance needs the instance map")
        edge_channel = edge_map(instance)
    elif edges == "soft":
        edge_channel = soft_edge_map(segmap)
    elif edges == "argmax":
        edge_channel = edge_map(segmap.detach().argmax(1))
    else:
        edge_channel = torch.zeros_like(segmap[:, :1])
    return torch.cat([segmap, never_lit, edge_channel.to(segmap.dtype)], dim=1)


def colorize(label_map: Tensor, labels: LabelSet) -> Tensor:
    """int64 [B,H,W] -> uint8 [B,3,H,W] in the colours of the label set."""
    palette = torch.from_numpy(colors_of(labels)).to(label_map.device)
    return palette[label_map].permute(0, 3, 1, 2).contiguous()


def to_uint8(image: Tensor) -> Tensor:
    """Image in [-1,1] -> uint8 0..255, as a PNG would hold it."""
    return ((image.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_unit_range(image: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1,1] (SPADE's Normalize(0.5, 0.5))."""
    return image.float() / 127.5 - 1
