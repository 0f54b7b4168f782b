"""Frozen ImageNet networks whose features say how alike two images look.

Home of torchvision's models. What is not VGG19 is never called VGG19.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
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


class PerceptualLoss(nn.Module):
    """L_VGG(s, y): the taps of a frozen network compared by weighted mean absolute difference."""

    def __init__(self, features: nn.Module, tap_weights: Sequence[float]) -> None:
        super().__init__()
        self.features, self.tap_weights = features, tap_weights

    def forward(self, synthesized_image: Tensor, real_image: Tensor) -> Tensor:
        """Two images [B,3,H,W] in [-1,1] -> scalar; only the first one gets a gradient."""
        with torch.no_grad():
            real = self.features(real_image)
        total = torch.zeros((), device=synthesized_image.device)
        for weight, tap, target in zip(
            self.tap_weights, self.features(synthesized_image), real, strict=True
        ):
            total = total + weight * F.l1_loss(tap.float(), target.float())
        return total
