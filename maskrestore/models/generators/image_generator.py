"""One door to every image generator: class probabilities in, an image out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.config.labels import LabelSet
from maskrestore.data.segmap import generator_input, to_unit_range
from maskrestore.models.frozen import Frozen
from maskrestore.models.generators.style import StyleEncoder, drawn_styles


@dataclass(frozen=True)
class Form:
    """What an image generator takes, as its file says. num_labels: channels of its label map, one
    more than classes (never lit), as many (what is not annotated comes last) or only the evaluated
    ones (train ids, nothing where none applies); style_size: numbers
    of its style, or 0; multiple, least: of the height and width that it can draw; num_latent:
    pixels, of 64x64 each, that it always draws, or 0 for any number."""

    kind: str
    num_labels: int
    wants_edges: bool
    style_size: int = 0
    multiple: int = 32
    least: int = 32
    num_latent: int = 0

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether it can draw pictures of `size` (height, width)."""
        fits = all(side >= self.least and side % self.multiple == 0 for side in size)
        return fits and self.num_latent in (0, size[0] // 64 * (size[1] // 64))

    def nearest(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Up to three sizes that it can draw, of shapes nearest to `size`'s."""
        if self.num_latent:
            rows = [row for row in range(1, self.num_latent + 1) if self.num_latent % row == 0]
            sizes = [(64 * row, 64 * self.num_latent // row) for row in rows]
        else:
            step, least = self.multiple, self.least
            ends = [{side // step * step, -(-side // step) * step} for side in size]
            heights, widths = ([max(end, least) for end in pair] for pair in ends)
            sizes = sorted({(height, width) for height in heights for width in widths})
        shape = size[0] / size[1]
        return sorted(sizes, key=lambda s: max(s[0] / s[1] / shape, shape * s[1] / s[0]))[:3]


class ImageGenerator(Frozen):
    """Class probabilities [B,C,H,W] -> image [B,3,H,W] in [-1,1], float32, whatever draws it.

    network: its channels [B,n,h,w] and, if it has one, its style [B,k] -> image [B,3,h,w].
    size: (height, width) at which it draws; masks of another are enlarged to that by the nearest
    pixel, with their gradient, edges are found there, and the image is averaged down again.
    style: None (0), a seed (of a run, with each sample's key), or what makes it of the real image.
    """

    def __init__(
        self,
        network: nn.Module,
        form: Form,
        labels: LabelSet,
        size: tuple[int, int],
        style: int | StyleEncoder | None = None,
    ) -> None:
        super().__init__()
        self.network, self.form, self.size = network, form, size
        self.encoder = style if isinstance(style, StyleEncoder) else None
        self.style_seed = style if isinstance(style, int) else None
        self._renumbers = form.num_labels <= labels.num_classes
        if self._renumbers:
            numbers = [*range(1, labels.num_classes), 0]
            if form.num_labels < labels.num_classes:
                numbers = list(labels.evaluated)
            order = F.one_hot(torch.tensor(numbers), labels.num_classes)  # [label, class]
            self.register_buffer("order", order.float(), persistent=False)
        self.freeze()

    def facts(self, style: str) -> dict[str, Any]:
        """What result.json tells of it under "protocol"; style: its setting."""
        height, width = self.size
        without_edges = {} if self.form.wants_edges else {"edges": None}
        return without_edges | {
            "generator": self.form.kind,
            "generator size": f"{height}x{width}",
            "style": style if self.form.style_size else None,
        }

    def forward(
        self,
        segmap: Tensor,
        edges: str,
        instance: Tensor | None = None,
        keys: Sequence[str] = (),
        real: Tensor | None = None,
    ) -> Tensor:
        """segmap: probabilities that sum to 1 over C, one-hot or soft. edges: segmap.edge_map's
        word for them; instance: int64 [B,H,W], for true edges. keys: the samples', for a style that
        is drawn; real: uint8 [B,3,H,W], for a style that is taken of it."""
        asked_size = segmap.shape[2:]
        if asked_size != self.size:
            segmap = F.interpolate(segmap, self.size, mode="nearest")
            if instance is not None:  # float64: instance ids are exact
                enlarged = F.interpolate(instance[:, None].double(), self.size, mode="nearest")
                instance = enlarged[:, 0].long()
        shown = generator_input(segmap, edges if self.form.wants_edges else None, instance)
        if self._renumbers:
            renumbered = torch.einsum("tc,bchw->bthw", self.order, segmap)
            shown = torch.cat([renumbered, shown[:, segmap.shape[1] + 1 :]], 1)
        style = self._style(keys, real, shown.device)
        image: Tensor = self.network(shown) if style is None else self.network(shown, style)
        return averaged(image, asked_size)

    def _style(
        self, keys: Sequence[str], real: Tensor | None, device: torch.device
    ) -> Tensor | None:
        if self.style_seed is not None:
            drawn = drawn_styles(self.form.style_size, self.style_seed, keys)
            return drawn.to(device, non_blocking=True)
        if self.encoder is not None:
            if real is None:
                raise ValueError("this style is taken of a real image, and there is none")
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                style: Tensor = self.encoder(to_unit_range(real))
            return style
        return None


def averaged(image: Tensor, size: Sequence[int]) -> Tensor:
    """[B,C,H,W] -> [B,C,*size], each pixel the mean of those that it stands for."""
    if image.shape[2:] == tuple(size):
        return image
    sides = list(zip(image.shape[2:], size, strict=True))
    if all(a % b == 0 for a, b in sides):
        return F.avg_pool2d(image, [a // b for a, b in sides])  # its gradient has an order on GPUs
    return F.interpolate(image, tuple(size), mode="area")
