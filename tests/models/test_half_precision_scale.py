"""The scale of HalfPrecision: exact, found anew after an overflow, and nobody waits for it."""

import copy
from typing import Any

import pytest
import torch
from half_networks import HALVES, HEIGHT, WIDTH, cosine, input_gradient, lite0, spade
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import (
    LOWEST_EXPONENT,
    START_EXPONENT,
    STEPS_UP,
    HalfPrecision,
)
from maskrestore.models.lite0 import Lite0Features

__all__ = ["lite0"]  # a fixture


@pytest.fixture(scope="module")
def small() -> FrozenGenerator:
    return spade(6, 2, 5)


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
