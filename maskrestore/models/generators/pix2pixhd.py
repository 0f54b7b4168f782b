"""The pix2pixHD image generators, written from the paper.

Wang, Liu, Zhu, Tao, Kautz, Catanzaro, "High-Resolution Image Synthesis and Semantic Manipulation
with Conditional GANs", CVPR 2018 (section 3.1, figure 3). Global: down, residual blocks, up. Local:
a global one at half the size, without its last layer, and an enhancer around it. The layers' places
are those of the public checkpoints, whose keys they name.

Each norm is of the image at hand, and nothing is under spectral norm: training and evaluation do
the same. A part of a picture is not drawn as it is drawn in the whole.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.models.fused import run_block


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0 and variance 1; then a ReLU, if asked. In float32.

    A nearly constant channel is amplified up to 316 times: rounding before it becomes signal.
    """

    def __init__(self, relu: bool = True) -> None:
        super().__init__()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """float [B,C,H,W] -> the same."""
        wide = x if x.dtype == torch.float64 else x.float()
        normal = F.instance_norm(wide, eps=1e-5).to(x.dtype)
        return F.relu(normal) if self.relu else normal


class ResidualBlock(nn.Module):
    """x + two convolutions with instance norm, at reflected borders; nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            *_norm(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3, bias=False),
            InstanceNorm(relu=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float [B,C,H,W] -> the same; at least 2x2."""
        result: Tensor = x + self.conv_block(x)
        return result


class Pix2PixHDGlobal(nn.Module):
    """inputs: channels that it sees; width: of its first layer (ngf); num_downs: times that it
    halves the picture. A bias in front of an instance norm changes nothing; there is none here."""

    def __init__(
        self, inputs: int, width: int, num_downs: int, num_blocks: int, checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        trunk = _global_trunk(inputs, width, num_downs, num_blocks)
        self.model = nn.Sequential(*trunk, *_last(width))

    def forward(self, x: Tensor) -> Tensor:
        """float [B,inputs,H,W], multiples of 2**num_downs -> image [B,3,H,W] in [-1,1]."""
        return _run(self.model, x, self.checkpointing)


class Pix2PixHDLocal(nn.Module):
    """width: channels of the enhancer (ngf); the global part has twice as many."""

    def __init__(
        self,
        inputs: int,
        width: int,
        num_downs: int,
        num_blocks: int,
        num_local_blocks: int,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.model = nn.Sequential(*_global_trunk(inputs, 2 * width, num_downs, num_blocks))
        self.model1_1 = nn.Sequential(*_first(inputs, width), *_down(width))
        blocks = [ResidualBlock(2 * width) for _ in range(num_local_blocks)]
        self.model1_2 = nn.Sequential(*blocks, *_up(2 * width), *_last(width))

    def forward(self, x: Tensor) -> Tensor:
        """float [B,inputs,H,W], multiples of 2**(num_downs + 1) -> image [B,3,H,W] in [-1,1]."""
        half = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
        coarse = _run(self.model, half, self.checkpointing)
        fine = _run(self.model1_1, x, self.checkpointing)
        return _run(self.model1_2, fine + coarse, self.checkpointing)


def _run(layers: nn.Sequential, x: Tensor, checkpointing: bool) -> Tensor:
    for layer in layers:
        x = run_block(layer, x, again=checkpointing and isinstance(layer, ResidualBlock))
    return x


def _global_trunk(inputs: int, width: int, num_downs: int, num_blocks: int) -> list[nn.Module]:
    layers = _first(inputs, width)
    for level in range(num_downs):
        layers += _down(width << level)
    layers += [ResidualBlock(width << num_downs) for _ in range(num_blocks)]
    for level in range(num_downs, 0, -1):
        layers += _up(width << level)
    return layers


def _norm() -> list[nn.Module]:
    """An instance norm and its ReLU, which has a place of its own in the checkpoints."""
    return [InstanceNorm(), nn.Identity()]


def _first(inputs: int, width: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(inputs, width, 7, bias=False), *_norm()]


def _down(width: int) -> list[nn.Module]:
    """To twice the channels, half as high and wide."""
    return [nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), *_norm()]


def _up(width: int) -> list[nn.Module]:
    """To half the channels, twice as high and wide."""
    double = nn.ConvTranspose2d(width, width // 2, 3, 2, padding=1, output_padding=1, bias=False)
    return [double, *_norm()]


def _last(width: int) -> list[nn.Module]:
    return [nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh()]
