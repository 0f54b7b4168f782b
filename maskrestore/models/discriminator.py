"""The discriminator of task=synthesis: SPADE's multi-scale PatchGAN (paper, figure 13)."""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from maskrestore.models.spade import initialize_gan

MAX_CHANNELS = 512


class PatchDiscriminator(nn.Module):
    """Four 4x4 convolutions and one to a single channel: a map of logits, one per patch."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, width, 4, stride=2, padding=2)
        self.layers = nn.ModuleList([nn.Sequential(first, nn.LeakyReLU(0.2))])
        for stride in (2, 2, 1):
            wider = min(2 * width, MAX_CHANNELS)
            # The instance norm takes a bias away again, so there is none.
            conv = spectral_norm(nn.Conv2d(width, wider, 4, stride, padding=2, bias=False))
            self.layers.append(nn.Sequential(conv, nn.InstanceNorm2d(wider), nn.LeakyReLU(0.2)))
            width = wider
        self.layers.append(nn.Conv2d(width, 1, 4, padding=2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B,in_channels,H,W] -> the five layers' outputs; the last, [B,1,h,w], are the logits."""
        features = []
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features


class MultiscaleDiscriminator(nn.Module):
    """PatchDiscriminators of their own weights at full size, half size and so on."""

    def __init__(self, in_channels: int, width: int, num_scales: int = 2) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(in_channels, width) for _ in range(num_scales)
        )
        initialize_gan(self)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """[B,in_channels,H,W], the image generator's input and an image [-1,1] side by side.

        Returns for each scale, the full size first, the list of its feature maps, logits last.
        """
        results = []
        for discriminator in self.discriminators:
            results.append(discriminator(x))
            x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        return results
