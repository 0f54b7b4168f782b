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
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torchvision.models import vgg19

from maskrestore.data.segmap import generator_input
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import (
    LOWEST_EXPONENT,
    START_EXPONENT,
    STEPS_UP,
    HalfPrecision,
)
from maskrestore.models.perceptual import TAP_WEIGHTS, Lite0Features, PerceptualLoss, VGG19Features
from maskrestore.models.spade import SPADEGenerator

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
HEIGHT, WIDTH = 32, 64
# A mean over B*H*W pixels hands each of them a gradient in proportion to 1 / (B*H*W), so that one
# small image has that of a large batch when its loss is divided by the ratio of their pixels.
MAGNITUDES = [HEIGHT * WIDTH / (8 * 256 * 512), HEIGHT * WIDTH / (8 * 512 * 1024)]
Call = Callable[..., Any]
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


@pytest.fixture(scope="module")
def generator() -> FrozenGenerator:
    return spade(36, 8, 16)


@pytest.fixture(scope="module")
def small() -> FrozenGenerator:
    return spade(6, 2, 5)


@pytest.fixture(scope="module")
def lite0() -> Lite0Features:
    return Lite0Features()


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
    wrap: Wrap, generator: nn.Module, features: nn.Module | None, magnitudes: list[float]
) -> tuple[list[Tensor], Tensor]:
    """Of the loss times each magnitude, w.r.t. the mask's logits, float64; and the image."""
    torch.manual_seed(1)
    logits = (torch.randn(1, 34, HEIGHT, WIDTH) * 2).requires_grad_()
    real_image = F.interpolate(torch.rand(1, 3, 4, 8) * 2 - 1, (HEIGHT, WIDTH), mode="bilinear")
    image = wrap(generator)(generator_input(logits.softmax(1), "soft"))
    loss = F.l1_loss(image.float(), real_image)
    if features is not None:
        loss = loss + PerceptualLoss(wrap(features), TAP_WEIGHTS)(image, real_image)
    gradients = [
        torch.autograd.grad(loss * magnitude, logits, retain_graph=True)[0].double()
        for magnitude in magnitudes
    ]
    return gradients, image.detach()


def input_gradient(
    network: Call, x: Tensor, loss_of: Callable[[Any], Tensor] = Tensor.mean, *more: Tensor
) -> Tensor:
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(network(x, *more)), x)
    return gradient


def cosine(a: Tensor, b: Tensor) -> float:
    """0 where one of them is all zeros."""
    a, b = a.double(), b.double()
    norms = (a.norm() * b.norm()).item()
    return (a * b).sum().item() / norms if norms else 0.0


def survives(gradient: Tensor, expected: Tensor) -> bool:
    """Its direction and its length."""
    return cosine(gradient, expected) > 0.9995 and 0.95 < gradient.norm() / expected.norm() < 1.05


@HALVES
@pytest.mark.parametrize("terms", ["l1", "l1 and perceptual"])
def test_the_gradient_survives_at_every_magnitude(
    generator: FrozenGenerator, lite0: Lite0Features, dtype: torch.dtype, terms: str
) -> None:
    features = None if terms == "l1" else lite0
    magnitudes = [1.0, *MAGNITUDES]
    gradients, _ = mask_gradients(in_half(dtype), generator, features, magnitudes)
    (expected,), _ = mask_gradients(forward_in(dtype), generator, features, [1.0])
    for magnitude, gradient in zip(magnitudes, gradients, strict=True):
        assert survives(gradient / magnitude, expected), magnitude


@HALVES
def test_so_it_does_through_vgg19(vgg: VGG19Features, dtype: torch.dtype) -> None:
    """The 64 channels of relu1_1 at full size take the smallest gradients of all."""
    torch.manual_seed(0)
    image, real_image = torch.rand(2, 1, 3, 32, 32) * 2 - 1
    magnitude = 32 * 32 / (8 * 512 * 1024)
    gradient, expected = (
        input_gradient(
            PerceptualLoss(wrap(dtype)(vgg), TAP_WEIGHTS),
            image,
            lambda y: y * magnitude,
            real_image,
        )
        for wrap in (in_half, forward_in)
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


@pytest.fixture(scope="module")
def segmap() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(2, 6, HEIGHT, WIDTH).mul(2).softmax(1)


def test_powers_of_two_go_through_exactly(small: FrozenGenerator, segmap: Tensor) -> None:
    """Whatever GradScaler, weights or sizes make of the loss, and next to the ends of fp32."""
    half = HalfPrecision(copy.deepcopy(small), torch.float16)
    expected = input_gradient(half, segmap)
    assert expected.any()
    for factor in (2.0**16, 2.0**-9, 2.0**60, 2.0**-60):
        gradient = input_gradient(half, segmap, lambda y, factor=factor: y.mean() * factor)
        assert torch.equal(gradient / factor, expected)
    for factor, scale in ((1e-41, 2.0**126), (1e34, 2.0**-113)):  # fp32's own limits
        gradient = input_gradient(half, segmap, lambda y, factor=factor: y.sum() * factor)
        assert gradient.isfinite().all()
        assert half.scale == scale
    unscaled = HalfPrecision(copy.deepcopy(small), torch.bfloat16)
    input_gradient(unscaled, segmap)
    unscaled.update(torch.tensor(False))
    assert (unscaled.scale, unscaled.exponent) == (1, START_EXPONENT)


def test_zeros_stay_zeros_and_what_is_not_finite_stays_so(
    small: FrozenGenerator, segmap: Tensor
) -> None:
    half = HalfPrecision(copy.deepcopy(small), torch.float16)
    assert not input_gradient(half, segmap, lambda y: y.sum() * 0).any()
    for factor in (torch.inf, torch.nan):
        gradient = input_gradient(half, segmap, lambda y, factor=factor: (y * factor).sum())
        assert not gradient.isfinite().all()
    assert input_gradient(half, segmap).isfinite().all()


def test_calls_keep_their_own_scales(small: FrozenGenerator, segmap: Tensor) -> None:
    half = HalfPrecision(copy.deepcopy(small), torch.float16)
    factors = (1.0, 2.0**-40)
    expected = [input_gradient(half, segmap, lambda y, f=f: y.mean() * f) for f in factors]
    inputs = [segmap.clone().requires_grad_() for _ in factors]
    sum(half(x).mean() * factor for x, factor in zip(inputs, factors, strict=True)).backward()
    assert all(torch.equal(x.grad, e) for x, e in zip(inputs, expected, strict=True))


def amplifier() -> nn.Module:
    """Multiplies a gradient by more than fp16 holds, and its input no further than fp16 goes."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(4, 16, 1, bias=False), nn.Conv2d(16, 3, 1, bias=False)]
    for layer in layers:
        layer.weight.data.mul_(2**11)
    return nn.Sequential(*layers)


def test_an_overflow_inside_lowers_the_scale_until_it_passes() -> None:
    network = amplifier()
    half = HalfPrecision(copy.deepcopy(network), torch.float16)
    torch.manual_seed(3)
    x = torch.randn(2, 4, 8, 8) * 2**-12
    weights = torch.randn(2, 3, 8, 8)
    expected = input_gradient(network, x, lambda y: (y * weights).mean())
    seen = []
    for _ in range(6):
        gradient = input_gradient(half, x, lambda y: (y * weights).mean())
        finite = gradient.isfinite().all()
        seen.append((bool(finite), int(half.exponent)))
        half.update(finite)
    assert not any(p.requires_grad for p in half.parameters())
    assert seen[0] == (False, START_EXPONENT)
    assert seen[-1] == seen[-2] == (True, START_EXPONENT - 6)
    assert cosine(gradient, expected) > 0.999


def test_the_exponent_falls_fast_rises_slowly_and_goes_on_after_a_resume() -> None:
    half = HalfPrecision(amplifier(), torch.float16)
    nn.Sequential(half).to(torch.bfloat16)  # half of these numbers would not fit
    good, bad = torch.tensor(True), torch.tensor(False)
    for _ in range(20):
        half.update(bad)
    assert half.exponent == LOWEST_EXPONENT
    for _ in range(STEPS_UP - 1):
        half.update(good)
    assert half.exponent == LOWEST_EXPONENT
    resumed = HalfPrecision(amplifier(), torch.float16)
    resumed.load_scaling_state(copy.deepcopy(half.scaling_state()))
    half.update(bad)  # and all the good steps before it are forgotten
    half.update(good)
    assert half.exponent == LOWEST_EXPONENT
    resumed.update(good)
    assert resumed.exponent == LOWEST_EXPONENT + 1
    resumed.exponent.fill_(START_EXPONENT)
    for _ in range(STEPS_UP):
        resumed.update(good)
    assert resumed.exponent == START_EXPONENT


@HALVES
def test_nothing_in_it_changes(
    small: FrozenGenerator, lite0: Lite0Features, segmap: Tensor, dtype: torch.dtype
) -> None:
    front = nn.Conv2d(6, 6, 1)
    image_generator, features = (HalfPrecision(copy.deepcopy(n), dtype) for n in (small, lite0))
    parent = nn.ModuleList([front, image_generator, features])
    inner = nn.ModuleList([image_generator.network, features.network])
    before = {name: value.clone() for name, value in inner.state_dict().items()}
    parent.train()
    image = image_generator(front(segmap).softmax(1))
    features(image)[2].mean().backward()  # the other taps get no gradient
    assert front.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in inner.parameters())
    assert not any(module.training for network in inner for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in inner.state_dict().items())
    assert {v.dtype for v in before.values() if v.is_floating_point()} == {dtype}


class _NoWaiting(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        waiting = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal")
        assert function._schema.name.removeprefix("aten::") not in waiting
        return function(*args, **(kwargs or {}))


def test_the_host_never_waits_for_the_device(small: FrozenGenerator, segmap: Tensor) -> None:
    half = HalfPrecision(copy.deepcopy(small), torch.float16)
    with _NoWaiting():
        gradient = input_gradient(half, segmap)
        half.update(gradient.isfinite().all())
        with pytest.raises(AssertionError):
            bool(gradient.isfinite().all())
