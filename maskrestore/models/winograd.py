"""3x3 convolutions by Winograd's algorithm, for CPUs (distributed.precision=winograd).

Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016: a tile of 6x6 outputs
takes 5 times fewer multiplications. In float32 it rounds more (2e-5 of the largest value of a
result), which is still 100 times closer than bf16. NNPACK, which PyTorch contains, computes it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

MIN_PIXELS = 1024
"""On smaller maps transforming the weights takes longer than it saves."""


def is_available() -> bool:
    """Whether this PyTorch can. Asking makes NNPACK ready, which each process needs."""
    return hasattr(torch, "_nnpack_spatial_convolution") and torch.backends.nnpack.is_available()


def use_winograd(network: nn.Module) -> None:
    """Compute its Conv3x3 layers so. They must be float32 on a CPU."""
    for layer in network.modules():
        if isinstance(layer, Conv3x3):
            layer.winograd = True


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution with padding 1, [B,C,H,W] -> [B,out_channels,H,W]."""

    winograd = False

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Conv2d."""
        if not self.winograd or x.shape[2] * x.shape[3] < MIN_PIXELS or not len(x):
            return super().forward(x)
        y: Tensor = _Winograd.apply(x, self.weight, self.bias)
        return y


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return _convolve(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = _convolve(gradient, weight.flip(2, 3).transpose(0, 1).contiguous(), None)
        if ctx.needs_input_grad[1]:
            of_weight = conv2d_weight(x, weight.shape, gradient, padding=1)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_x, of_weight, of_bias


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    is_available()
    # One image at a time: NNPACK's way for several takes more than twice as long.
    results = [
        torch._nnpack_spatial_convolution(one[None].contiguous(), weight, bias, [1, 1], [1, 1])
        for one in x
    ]
    return torch.cat(results) if len(results) > 1 else results[0]
