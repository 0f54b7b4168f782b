"""The SPADE image generator, written from the paper.

Park, Liu, Wang, Zhu, "Semantic Image Synthesis with Spatially-Adaptive Normalization", CVPR 2019
(equation 1, figures 11 and 12). The attribute names are those of the public checkpoints, so
that `latest_net_G.pth` loads strictly (models/weights.py).
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

SLOPE = 0.2
"""Of the leaky ReLUs."""
EPSILON = 1e-5
"""Of the norms."""


class SPADE(nn.Module):
    """Equation 1: normalise without parameters, then scale and shift by what the segmap says."""

    def __init__(self, channels: int, semantic_nc: int, hidden: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(conv3x3(semantic_nc, hidden), nn.ReLU())
        self.mlp_gamma = conv3x3(hidden, channels)
        self.mlp_beta = conv3x3(hidden, channels)

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        """x [B,channels,h,w], segmap [B,semantic_nc,h,w] -> [B,channels,h,w]."""
        hidden = self.mlp_shared(segmap)
        gamma, beta = self.mlp_gamma(hidden), self.mlp_beta(hidden)
        out: Tensor = self.param_free_norm(x) * (1 + gamma) + beta
        return out


class SPADEResnetBlock(nn.Module):
    """Figure 11: two SPADE-normalised 3x3 convolutions and a shortcut, learned if channels change;
    the convolutions are under spectral norm."""

    def __init__(self, in_channels: int, out_channels: int, semantic_nc: int, hidden: int) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.learned_shortcut = in_channels != out_channels
        self.conv_0 = conv3x3(in_channels, middle)
        self.conv_1 = conv3x3(middle, out_channels)
        self.norm_0 = SPADE(in_channels, semantic_nc, hidden)
        self.norm_1 = SPADE(middle, semantic_nc, hidden)
        if self.learned_shortcut:
            self.conv_s = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.norm_s = SPADE(in_channels, semantic_nc, hidden)
        # Not torch.nn.utils.parametrizations: its keys are not those of the checkpoints.
        for name in ("conv_0", "conv_1", "conv_s"):
            if hasattr(self, name):
                spectral_norm(getattr(self, name))

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        """x [B,in_channels,h,w], segmap [B,semantic_nc,H,W] of any size -> [B,out_channels,h,w]."""
        # nearest takes the top left pixel of each block; the public weights were trained with that.
        segmap = F.interpolate(segmap, size=x.shape[2:], mode="nearest")
        shortcut: Tensor = self.conv_s(self.norm_s(x, segmap)) if self.learned_shortcut else x
        x = self.conv_0(F.leaky_relu(self.norm_0(x, segmap), SLOPE))
        x = self.conv_1(F.leaky_relu(self.norm_1(x, segmap), SLOPE))
        return shortcut + x


WIDTHS = {
    "head_0": (16, 16),
    "G_middle_0": (16, 16),
    "G_middle_1": (16, 16),
    "up_0": (16, 8),
    "up_1": (8, 4),
    "up_2": (4, 2),
    "up_3": (2, 1),
}
"""Channels in and out of each block, in multiples of those of the last one."""


class SPADEGenerator(nn.Module):
    """Figure 12: segmap with edge channel -> image; 93.048 M parameters at the official size
    (36, 64, 128).

    size: (height, width) of the image in pixels, multiples of 32. The latent map is 64 times
    smaller where both are multiples of 64 (the official num_upsampling_layers=more), else 32
    times (normal). Raises ValueError on another size. blocks: others than blocks_of(size), and
    style_size: channels in front of the labels that are the same at every pixel (OASIS).
    """

    def __init__(
        self,
        semantic_nc: int,
        width: int,
        hidden: int,
        size: tuple[int, int],
        blocks: Mapping[str, bool] | None = None,
        style_size: int = 0,
    ) -> None:
        super().__init__()
        self.semantic_nc, self.width, self.hidden, self.size = semantic_nc, width, hidden, size
        self.blocks, self.style_size = dict(blocks or blocks_of(size)), style_size
        smaller = 2 ** sum(self.blocks.values())
        self.latent_size = (size[0] // smaller, size[1] // smaller)
        self.fc = conv3x3(semantic_nc, 16 * width)
        for name in self.blocks:
            inputs, outputs = (factor * width for factor in WIDTHS[name])
            self.add_module(name, SPADEResnetBlock(inputs, outputs, semantic_nc, hidden))
        self.conv_img = conv3x3(width, 3)
        initialize_gan(self)

    def forward(self, segmap: Tensor) -> Tensor:
        """segmap float [B,semantic_nc,H,W], one-hot or soft -> image [B,3,*size] in [-1,1]."""
        x = self.fc(F.interpolate(segmap, size=self.latent_size, mode="nearest"))
        for name, doubled in self.blocks.items():
            x = self.get_submodule(name)(_double(x) if doubled else x, segmap)
        return torch.tanh(self.conv_img(F.leaky_relu(x, SLOPE)))


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """[B,in_channels,H,W] -> [B,out_channels,H,W]."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def blocks_of(size: tuple[int, int]) -> dict[str, bool]:
    """The blocks of an image of `size` (height, width), and whether x is doubled before each: six
    times where both are multiples of 64, else five times.

    Raises ValueError if they are not multiples of 32.
    """
    if size[0] % 32 or size[1] % 32 or min(size) <= 0:
        raise ValueError(f"size {size[0]}x{size[1]} is not a multiple of 32 on both sides")
    six_doublings = size[0] % 64 == 0 and size[1] % 64 == 0
    stays = {"head_0"} if six_doublings else {"head_0", "G_middle_1"}
    return {name: name not in stays for name in WIDTHS}


def initialize_gan(network: nn.Module) -> None:
    """SPADE's initialisation: Glorot normal with gain 0.02, biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # Under spectral norm this `weight` shares its memory with the parameter weight_orig.
            nn.init.xavier_normal_(module.weight, gain=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
