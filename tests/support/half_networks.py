"""Small frozen networks in half precision, and their gradients, for the tests of HalfPrecision."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.lite0 import Lite0Features
from maskrestore.models.perceptual import TAP_WEIGHTS
from maskrestore.models.spade import SPADEGenerator

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
HEIGHT, WIDTH = 32, 64
Call = Callable[..., Any]


def spade(num_channels: int, width: int, hidden: int) -> FrozenGenerator:
    """With random weights, and the batch statistics that go with them (else the tanh saturates)."""
    torch.manual_seed(0)
    generator = SPADEGenerator(num_channels, width, hidden, (HEIGHT, WIDTH))
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, without what it was born with
    with torch.no_grad():
        for _ in range(8):
            generator(torch.randn(4, num_channels, 8, 16).mul(3).softmax(1))
    return FrozenGenerator(generator)


def input_gradient(
    network: Call, x: Tensor, loss_of: Callable[[Any], Tensor] = Tensor.mean, *more: Tensor
) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(network(x, *more)), x)
    return gradient


def plain_perceptual(features: Call) -> Call:
    """The perceptual loss as its formula stands, of the taps in float32."""

    def loss(image: Tensor, real_image: Tensor) -> Tensor:
        with torch.no_grad():
            real = features(real_image)
        taps = zip(TAP_WEIGHTS, features(image), real, strict=True)
        return sum((w * F.l1_loss(a.float(), b.float()) for w, a, b in taps), torch.tensor(0.0))

    return loss


def cosine(a: Tensor, b: Tensor) -> float:
    """0 where one of them is all zeros."""
    a, b = a.double(), b.double()
    norms = (a.norm() * b.norm()).item()
    return (a * b).sum().item() / norms if norms else 0.0


@pytest.fixture(scope="module")
def lite0() -> Lite0Features:
    return Lite0Features()
