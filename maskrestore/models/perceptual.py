"""Frozen ImageNet networks whose features say how alike two images look.

Home of torchvision's models. What is not VGG19 is never called VGG19.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.config.networks import PerceptualConfig
from maskrestore.models.frozen import Frozen
from maskrestore.models.lite0 import Lite0Features
from maskrestore.models.weights import load_into, load_weights
from maskrestore.utils.errors import UserError

TAP_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Of the five taps, from fine to coarse (SPADE, pix2pixHD)."""


class VGG19Features(Frozen):
    """relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 of torchvision's VGG19, as in SPADE.

    weights: file of torchvision's state dict (vgg19-dcbb9e9d.pth); None lets torchvision download
    it. Raises UserError if the file does not fit or the download fails.
    """

    tap_weights = TAP_WEIGHTS
    taps = (1, 6, 11, 20, 29)

    def __init__(self, weights: Path | None) -> None:
        from torchvision.models import vgg19  # takes as long to import as torch

        super().__init__()
        state = _download_vgg19() if weights is None else load_weights(weights)
        with torch.device("meta"):  # the classifier, unused here, is most of the 144 M weights
            self.features = vgg19().features
        self.features.to_empty(device="cpu")
        convolutions = {name: state[name] for name in state if name.startswith("features.")}
        load_into(self, convolutions, weights or "torchvision's VGG19 weights")
        self.features = self.features[: self.taps[-1] + 1]
        self.freeze()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image [B,3,H,W] in [-1,1], at least 16x16, used without ImageNet normalisation.

        Returns [B,64,H,W], [B,128,H/2,W/2], [B,256,H/4,W/4], [B,512,H/8,W/8], [B,512,H/16,W/16].
        """
        features = []
        for index, layer in enumerate(self.features):
            image = layer(image)
            if index in self.taps:
                features.append(image)
        return features


def make_features(config: PerceptualConfig) -> VGG19Features | Lite0Features:
    """The feature network of the perceptual loss that the settings name."""
    return VGG19Features(config.weights) if config.network == "vgg19" else Lite0Features()


def _download_vgg19() -> dict[str, Tensor]:
    from torchvision.models import VGG19_Weights

    try:
        state = VGG19_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"VGG19's weights could not be downloaded ({error}): get vgg19-dcbb9e9d.pth elsewhere "
            "and give perceptual.weights=FILE, or use perceptual.network=lite0, which needs none"
        ) from error
    return dict(state)


class FeatureDistances(Frozen):
    """How differently a frozen network sees two images, tap by tap.

    A module of its own, so that HalfPrecision holds all of it: taps are compared as they are, and
    of both of them a byte per number is kept for the backward pass.
    """

    def __init__(self, features: Frozen) -> None:
        super().__init__()
        self.features = features
        self.freeze()

    def forward(self, image: Tensor, real_image: Tensor) -> list[Tensor]:
        """Two images [B,3,H,W] in [-1,1] -> for each tap float32 [2]: the sum of the absolute
        differences of its numbers, and how many there are. Only `image` gets a gradient."""
        with torch.no_grad():
            real = self.features(real_image)
        taps = self.features(image)
        return [_AbsoluteDifferences.apply(*pair) for pair in zip(taps, real, strict=True)]


class _AbsoluteDifferences(torch.autograd.Function):
    """Their sum, and not their mean: the largest gradient that enters is then that of the sum,
    which HalfPrecision sees; that of a mean is divided inside, to less than fp16 can hold."""

    @staticmethod
    def forward(ctx: Any, tap: Tensor, target: Tensor) -> Tensor:
        difference = tap.to(torch.float32, copy=True).sub_(target)  # the largest map of a step
        sign = (difference > 0).view(torch.int8).sub_((difference < 0).view(torch.int8))
        ctx.save_for_backward(sign)
        ctx.dtype = tap.dtype
        total = difference.abs_().sum()
        return torch.stack([total, torch.full_like(total, tap.numel())])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        [sign] = ctx.saved_tensors
        return sign * gradients[0][0].to(ctx.dtype), None


class PerceptualLoss(nn.Module):
    """L_VGG(s, y): the taps of a frozen network compared by weighted mean absolute difference.

    distances: FeatureDistances, or what computes them in another format.
    """

    def __init__(self, distances: nn.Module, tap_weights: Sequence[float]) -> None:
        super().__init__()
        self.distances, self.tap_weights = distances, tap_weights

    def forward(self, synthesized_image: Tensor, real_image: Tensor) -> Tensor:
        """Two images [B,3,H,W] in [-1,1] -> scalar; only the first one gets a gradient."""
        total = torch.zeros((), device=synthesized_image.device)
        distances = self.distances(synthesized_image, real_image)
        for weight, distance in zip(self.tap_weights, distances, strict=True):
            total = total + weight * distance[0] / distance[1].detach()
        return total
