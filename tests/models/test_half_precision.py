"""Half precision held to fp32.

A rounded forward pass flips some ReLUs, and that alone moves the gradient: for L1 through the
official SPADE form with random weights to a cosine of about 0.995 in bf16 and 0.9998 in fp16, with
EfficientNet-Lite0 behind it to 0.75 and 0.97. What the backward pass loses is told apart from it
by `forward_in`: the same rounded forward pass, with its backward pass in fp32.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from half_networks import (
    HALVES,
    HEIGHT,
    WIDTH,
    Call,
    cosine,
    input_gradient,
    lite0,
    plain_perceptual,
    spade,
)
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torchvision.models import vgg19

from maskrestore.data.segmap import generator_input
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import HalfPrecision
from maskrestore.models.lite0 import Lite0Features
from maskrestore.models.perceptual import (
    TAP_WEIGHTS,
    FeatureDistances,
    PerceptualLoss,
    VGG19Features,
)

__all__ = ["lite0"]  # a fixture

# A mean over B*H*W pixels hands each of them a gradient in proportion to 1 / (B*H*W), so that one
# small image has that of a large batch when its loss is divided by the ratio of their pixels.
MAGNITUDES = [HEIGHT * WIDTH / (8 * 256 * 512), HEIGHT * WIDTH / (8 * 512 * 1024)]
Wrap = Callable[[nn.Module], Call]


class ForwardIn(TorchDispatchMode):
    """Operations are computed in half, while autograd, above them, sees fp32 all along."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*_to(self.dtype, args), **(kwargs or {}))
        if function._schema.name.endswith("_"):  # relu_ and the like give back what they were given
            return args[0].copy_(result)
        return _to(torch.float32, result)


def _to(dtype: torch.dtype, values: Any) -> Any:
    return tree_map_only(Tensor, lambda v: v.to(dtype) if v.is_floating_point() else v, values)


def forward_in(dtype: torch.dtype) -> Wrap:
    def wrap(network: nn.Module) -> Call:
        rounded = copy.deepcopy(network).to(dtype).float()

        def call(x: Tensor) -> Any:
            with ForwardIn(dtype):
                return rounded(x * 1)

        return call

    return wrap


def plain_casts(network: nn.Module) -> Call:
    """fp16 without any scaling."""
    half = copy.deepcopy(network).to(torch.float16)
    return lambda x: half(x.to(torch.float16)).float()


def in_half(dtype: torch.dtype) -> Wrap:
    return lambda network: HalfPrecision(copy.deepcopy(network), dtype)


@pytest.fixture(scope="module")
def generator() -> FrozenGenerator:
    return spade(36, 8, 16)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> VGG19Features:
    """With random weights that keep the magnitude of what passes through."""
    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {f"features.{k}": v.shape for k, v in vgg19().features.state_dict().items()}
    state = {k: torch.randn(s) * (2 / (9 * s[-3:][0])) ** 0.5 for k, s in shapes.items()}
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(state, path)
    features = VGG19Features(path)
    path.unlink()  # 80 MB
    return features


def mask_gradients(
    wrap: Wrap, generator: nn.Module, perceptual: Call | None, magnitudes: list[float]
) -> tuple[list[Tensor], Tensor]:
    """Of the loss times each magnitude, w.r.t. the mask's logits, float64; and the image."""
    torch.manual_seed(1)
    logits = (torch.randn(1, 34, HEIGHT, WIDTH) * 2).requires_grad_()
    real_image = F.interpolate(torch.rand(1, 3, 4, 8) * 2 - 1, (HEIGHT, WIDTH), mode="bilinear")
    image = wrap(generator)(generator_input(logits.softmax(1), "soft"))
    loss = F.l1_loss(image.float(), real_image)
    if perceptual is not None:
        loss = loss + perceptual(image, real_image)
    gradients = [
        torch.autograd.grad(loss * magnitude, logits, retain_graph=True)[0].double()
        for magnitude in magnitudes
    ]
    return gradients, image.detach()


def survives(gradient: Tensor, expected: Tensor) -> bool:
    """Its direction and its length."""
    return cosine(gradient, expected) > 0.9995 and 0.95 < gradient.norm() / expected.norm() < 1.05


@HALVES
@pytest.mark.parametrize("terms", ["l1", "l1 and perceptual"])
def test_the_gradient_survives_at_every_magnitude(
    generator: FrozenGenerator, lite0: Lite0Features, dtype: torch.dtype, terms: str
) -> None:
    ours, plain = None, None
    if terms != "l1":
        ours = PerceptualLoss(in_half(dtype)(FeatureDistances(lite0)), TAP_WEIGHTS)
        plain = plain_perceptual(forward_in(dtype)(lite0))
    magnitudes = [1.0, *MAGNITUDES]
    gradients, _ = mask_gradients(in_half(dtype), generator, ours, magnitudes)
    (expected,), _ = mask_gradients(forward_in(dtype), generator, plain, [1.0])
    for magnitude, gradient in zip(magnitudes, gradients, strict=True):
        assert survives(gradient / magnitude, expected), magnitude


@pytest.mark.slow
@HALVES
def test_so_it_does_through_vgg19(vgg: VGG19Features, dtype: torch.dtype) -> None:
    """The 64 channels of relu1_1 at full size take the smallest gradients of all."""
    torch.manual_seed(0)
    image, real_image = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    magnitude = 32 * 32 / (8 * 512 * 1024)
    ours = PerceptualLoss(in_half(dtype)(FeatureDistances(vgg)), TAP_WEIGHTS)
    plain = plain_perceptual(forward_in(dtype)(vgg))
    gradient, expected = (
        input_gradient(loss, image, lambda y: y * magnitude, real_image) for loss in (ours, plain)
    )
    assert survives(gradient, expected)


def test_without_the_scaling_it_does_not(generator: FrozenGenerator) -> None:
    gradients, _ = mask_gradients(plain_casts, generator, None, MAGNITUDES)
    (expected,), _ = mask_gradients(forward_in(torch.float16), generator, None, [1.0])
    assert all(cosine(gradient, expected) < 0.9 for gradient in gradients)


@HALVES
def test_close_to_fp32_forward_and_backward(generator: FrozenGenerator, dtype: torch.dtype) -> None:
    """bf16 keeps 8 bits and fp16 11; the error of the image is relative to how it varies."""
    (gradient,), image = mask_gradients(in_half(dtype), generator, None, [1.0])
    (expected,), of_fp32 = mask_gradients(lambda network: network, generator, None, [1.0])
    bits, least = (8, 0.99) if dtype == torch.bfloat16 else (11, 0.999)
    assert (image - of_fp32).norm() < 8 * 2**-bits * (of_fp32 - of_fp32.mean()).norm()
    assert cosine(gradient, expected) > least


@HALVES
def test_taps_come_as_float32(lite0: Lite0Features, dtype: torch.dtype) -> None:
    half = HalfPrecision(copy.deepcopy(lite0), dtype)
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 64) * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):  # has no say in it
        taps = half(image.requires_grad_())
        with torch.no_grad():
            without_gradient = half(image)
    assert [tap.dtype for tap in taps] == [torch.float32] * 5
    most = 0.1 if dtype == torch.bfloat16 else 0.02
    for tap, plain, reference in zip(taps, without_gradient, lite0(image), strict=True):
        assert torch.equal(tap, plain)
        assert (tap - reference).norm() < most * reference.norm()
