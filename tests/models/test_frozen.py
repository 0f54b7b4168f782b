import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.plain_spade import PlainGenerator
from maskrestore.models.frozen import Frozen, FrozenGenerator
from maskrestore.models.half_precision import in_precision
from maskrestore.models.spade import SPADEGenerator


def trained_generator(size: tuple[int, int]) -> SPADEGenerator:
    """A generator whose statistics, biases and singular vectors are not the initial ones."""
    torch.manual_seed(0)
    generator = SPADEGenerator(6, 2, 5, size)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(20).add_(0.2 * torch.randn_like(parameter))
        for _ in range(3):
            generator(torch.rand(2, 6, *size))
    return generator


def output_and_gradient(generator: nn.Module, segmap: Tensor) -> tuple[Tensor, Tensor]:
    segmap = segmap.clone().requires_grad_()
    image = generator(segmap)
    (gradient,) = torch.autograd.grad(image.square().mean(), segmap)
    return image.detach(), gradient


def plain(generator: SPADEGenerator) -> PlainGenerator:
    """The plain module with the same weights, frozen."""
    twin = PlainGenerator(generator.semantic_nc, generator.width, generator.hidden, generator.size)
    twin.load_state_dict(generator.state_dict())
    return twin.eval().requires_grad_(False)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_equals_the_plain_generator(size: tuple[int, int], checkpointing: bool) -> None:
    generator = trained_generator(size)
    frozen = FrozenGenerator(generator, checkpointing)
    segmap = torch.rand(2, 6, *size)
    image, gradient = output_and_gradient(frozen, segmap)
    expected_image, expected_gradient = output_and_gradient(plain(generator), segmap)
    assert expected_image.std() > 0.05
    assert expected_gradient.abs().max() > 1e-6
    torch.testing.assert_close(image, expected_image, atol=1e-5, rtol=0)
    scale = expected_gradient.abs().max()
    torch.testing.assert_close(gradient / scale, expected_gradient / scale, atol=1e-5, rtol=0)


def test_training_around_it_changes_nothing_in_it() -> None:
    class Restorer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front = nn.Conv2d(4, 6, 1)
            self.frozen = FrozenGenerator(trained_generator((32, 64)))

        def forward(self, x: Tensor) -> Tensor:
            image: Tensor = self.frozen(self.front(x).softmax(1))
            return image

    restorer = Restorer().train()
    before = {name: value.clone() for name, value in restorer.frozen.state_dict().items()}
    front = restorer.front.weight.detach().clone()
    optimizer = torch.optim.Adam([p for p in restorer.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        restorer.train()
        optimizer.zero_grad()
        restorer(torch.rand(2, 4, 32, 64)).square().mean().backward()
        assert restorer.front.weight.grad is not None
        assert restorer.front.weight.grad.abs().max() > 0
        optimizer.step()
    assert not torch.equal(restorer.front.weight, front)
    after = restorer.frozen.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module.training for module in restorer.frozen.modules())
    assert not any(parameter.requires_grad for parameter in restorer.frozen.parameters())


def test_does_not_follow_the_generator_it_was_made_of() -> None:
    generator = trained_generator((32, 64))
    frozen = FrozenGenerator(generator)
    segmap = torch.rand(1, 6, 32, 64)
    before = frozen(segmap)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1)
    assert torch.equal(frozen(segmap), before)
    assert all(parameter.requires_grad for parameter in generator.parameters())


def test_draws_no_random_numbers() -> None:
    generator = trained_generator((32, 64))
    state = torch.get_rng_state()
    FrozenGenerator(generator)
    assert torch.equal(torch.get_rng_state(), state)


def test_in_less_precision_its_gradient_is_as_close_as_that_of_plain_autocast() -> None:
    generator = trained_generator((64, 64))
    segmap = torch.rand(2, 6, 64, 64)
    reference = plain(generator)
    _, exact = output_and_gradient(copy.deepcopy(reference).double(), segmap.double())

    def cosine(gradient: Tensor) -> float:
        return float(F.cosine_similarity(gradient.double().flatten(), exact.flatten(), 0))

    _, ours = output_and_gradient(in_precision(FrozenGenerator(generator), "bf16"), segmap)
    with torch.autocast("cpu", torch.bfloat16):
        _, theirs = output_and_gradient(reference, segmap)
    assert 0.5 < cosine(theirs) < 1
    assert cosine(ours) > cosine(theirs) - 1e-3


def remembered(network: nn.Module, x: Tensor) -> int:
    """Bytes kept for the backward pass, weights aside."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        network(x.clone().requires_grad_())
    return sum(seen.values())


def test_remembers_little_for_the_backward_pass() -> None:
    torch.manual_seed(0)
    generator = SPADEGenerator(36, 8, 16, (64, 128)).eval()
    segmap = torch.rand(1, 36, 64, 128)
    expected = remembered(plain(generator), segmap)
    kept = remembered(FrozenGenerator(generator), segmap)
    again = remembered(FrozenGenerator(generator, checkpointing=True), segmap)
    assert kept < 0.5 * expected
    assert again < 0.5 * kept


class FrozenPair(Frozen):
    """Two convolutions, with what a frozen network may have of them."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(4, 6, 3, padding=1, **options)
        self.second = nn.Conv2d(6, 2, 1, bias=False)
        self.freeze()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(self.first(x))
        return result


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 2}, {"dilation": 2}])
def test_convolutions_give_the_same_gradient_and_keep_no_input(
    options: dict[str, int], dtype: torch.dtype, layout: torch.memory_format
) -> None:
    frozen = FrozenPair(**options).to(dtype).to(memory_format=layout)
    ordinary = nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, **options), nn.Conv2d(6, 2, 1, bias=False)
    )
    ordinary = ordinary.requires_grad_(False).to(dtype).to(memory_format=layout)
    for mine, other in zip(frozen.parameters(), ordinary.parameters(), strict=True):
        other.copy_(mine)
    x = torch.randn(2, 4, 8, 10, dtype=dtype).to(memory_format=layout)
    image, gradient = output_and_gradient(frozen, x)
    expected_image, expected_gradient = output_and_gradient(ordinary, x)
    assert torch.equal(image, expected_image)
    assert torch.equal(gradient, expected_gradient)
    assert gradient.stride() == expected_gradient.stride()
    assert remembered(frozen, x) == 0 < remembered(ordinary, x)


def test_frozen_convolutions_pass_gradcheck_and_stand_autocast_and_padding_by_reflection() -> None:
    frozen = FrozenPair().double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(frozen, (x,))
    mirrored = FrozenPair(padding_mode="reflect")
    assert not torch.equal(mirrored(x.float()), frozen.float()(x.float()))
    for network in (frozen.float(), mirrored):
        with torch.autocast("cpu", torch.bfloat16):
            image, gradient = output_and_gradient(network, x.detach().float())
        assert image.dtype == torch.bfloat16
        assert gradient.abs().sum() > 0
