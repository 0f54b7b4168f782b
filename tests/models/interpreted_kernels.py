"""The fast form against the plain one, by Triton's interpreter: test_kernels.py starts it."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from maskrestore.models import fast_modulation as fast
from maskrestore.models import modulation
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.spade import SPADEGenerator

# Of NumPy, in the interpreter of Triton 3.4.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")
Form = Callable[..., tuple[Tensor, ...]]
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Odd, tiny, of several tiles of channels, of several chunks of an image's pixels.
SHAPES = [(2, 3, 5, 7), (3, 16, 1, 1), (1, 1, 2, 3), (2, 67, 3, 2), (1, 8, 24, 22)]
# Each shape in fp32, and the largest in half: the interpreter is slow.
CASES = [(torch.float32, s) for s in SHAPES] + [(d, SHAPES[-1]) for d in DTYPES[1:]]
LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a large image: several programs add up its pixels, each in several tiles."""
    monkeypatch.setattr(fast, "MOST_CHUNKS", 2)


def draw(*shape: int, mean: float = 0.0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64) + mean


def all_results(form: Form, inputs: Iterable[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    """What comes out, and the gradients of what goes in."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    results = form(*leaves)
    torch.autograd.backward(results, gradients)
    return [*(result.detach() for result in results), *(leaf.grad for leaf in leaves)]


def check(
    ours: Form, plain: Form, inputs: list[Tensor], gradients: list[Tensor], dtype: torch.dtype
) -> None:
    """Ours is as near to float64 as the plain form in the same format, or nearer."""
    inputs, gradients = ([x.to(dtype) for x in part] for part in (inputs, gradients))
    exact = all_results(plain, [x.double() for x in inputs], [g.double() for g in gradients])
    found, theirs = (all_results(form, inputs, gradients) for form in (ours, plain))
    for one, other, true in zip(found, theirs, exact, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        if true.norm() < 1e-9:  # of a map of 1x1, which its norm makes zero
            assert one.norm() == 0
            continue
        error, their_error = ((x.double() - true).norm() / true.norm() for x in (one, other))
        # The interpreter cuts off what bfloat16 has no room for, where a GPU rounds.
        assert error <= 1.1 * their_error + torch.finfo(dtype).eps, (error, their_error)


@pytest.mark.parametrize(("dtype", "shape"), CASES, ids=str)
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("doubled", [False, True])
def test_modulated(
    dtype: torch.dtype, shape: tuple[int, ...], normalized: bool, doubled: bool
) -> None:
    torch.manual_seed(0)
    batch, channels, *small = shape
    size = [2 * length for length in small] if doubled else small
    columns = [[2 * channels], [2 * channels, channels], [2 * channels] * 2]
    for number, kinds in enumerate(columns):
        maps = [draw(batch, count, *size) for count in kinds]
        layout = LAYOUTS[number % 2]
        inputs = [draw(*shape, mean=3.0).to(memory_format=layout), *maps]
        gradients = [draw(batch, channels, *size) for _ in kinds]
        check(
            lambda x, *maps: fast.modulated(x, doubled, maps, normalized),
            lambda x, *maps: modulation.plain_modulated(x, doubled, maps, normalized),
            *(inputs, gradients, dtype),
        )


def test_x_of_a_finer_format() -> None:
    """What autocast has not touched: it is normalised as it is, and its gradient is as fine."""
    torch.manual_seed(0)
    x, maps = draw(2, 3, 4, 5, mean=100.0).float(), draw(2, 6, 8, 10).half()
    gradients = [draw(2, 3, 8, 10).half()]

    def results(form: Form) -> list[Tensor]:
        return all_results(lambda x, *maps: form(x, True, maps, True), [x, maps], gradients)

    found, plain = results(fast.modulated), results(modulation.plain_modulated)
    assert [part.dtype for part in found] == [torch.float16, torch.float32, torch.float16]
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_the_norm_loses_nothing_where_the_mean_is_large(mean: float) -> None:
    torch.manual_seed(0)
    x, maps = draw(1, 4, 24, 50, mean=mean).float(), [draw(1, 8, 24, 50).float()]
    [found] = fast.modulated(x, False, maps, True)
    [exact] = modulation.plain_modulated(x.double(), False, [maps[0].double()], True)
    [theirs] = modulation.plain_modulated(x, False, maps, True)
    assert (found - exact).norm() <= 2 * (theirs - exact).norm() + 1e-7 * exact.norm()


@pytest.mark.parametrize(("dtype", "shape"), CASES, ids=str)
@pytest.mark.parametrize("keep_results", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_split_relu(
    dtype: torch.dtype, shape: tuple[int, ...], keep_results: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    batch, channels, *size = shape
    for count in (2, 3):
        inputs = [draw(batch, count * channels, *size).to(dtype).to(memory_format=layout)]
        gradients = [draw(*shape).to(dtype) for _ in range(count)]
        ours, plain = (
            all_results(partial(form, count=count, keep_results=keep_results), inputs, gradients)
            for form in (fast.split_relu, modulation.plain_split_relu)
        )
        assert all(torch.equal(one, other) for one, other in zip(ours, plain, strict=True))


@pytest.mark.filterwarnings("ignore")  # of numpy, which the interpreter computes with
def test_what_is_not_finite_stays_so() -> None:
    """Skipped steps and lowered scales depend on it."""
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([nan, inf, 1.0, -inf]).view(1, 4, 1, 1).requires_grad_()
    one, two = fast.split_relu(x, 2, False)
    assert one.flatten().isnan().tolist() == [True, False]
    assert two.flatten().tolist() == [1, 0]
    torch.autograd.backward((one, two), [torch.full_like(one, inf), torch.full_like(two, inf)])
    assert not x.grad.isfinite().any()  # type: ignore[union-attr]
    maps = torch.ones(1, 8, 1, 1)
    [y] = fast.modulated(x.detach(), False, [maps], False)
    assert y.flatten().isfinite().tolist() == [False, False, True, False]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_trial_tells_right_from_wrong(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    modulation.try_out(fast, torch.device("cpu"), dtype)
    monkeypatch.setattr(fast, "EPSILON", 0.1)
    with pytest.raises(RuntimeError, match="a trial was wrong by"):
        modulation.try_out(fast, torch.device("cpu"), dtype)


class NearestKink(TorchDispatchMode):
    """How near a number came to the kink of its activation, as a share of all their root mean
    square. On its other side, by rounding alone, its gradient is another."""

    distance = 1.0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function.overloadpacket in (torch.ops.aten.relu, torch.ops.aten.leaky_relu_):
            x = args[0]
            self.distance = min(self.distance, float(x.abs().min() / x.square().mean().sqrt()))
        return function(*args, **(kwargs or {}))


def smooth_network(kind: str) -> tuple[torch.nn.Module, list[Tensor]]:
    """A network and its inputs, drawn such that fp32 puts no number on the other side of a kink."""
    for seed in range(100):
        torch.manual_seed(seed)
        network: torch.nn.Module
        if kind == "frozen":
            network = FrozenGenerator(SPADEGenerator(6, 2, 5, (32, 32)))
            inputs = [torch.rand(1, 6, 32, 32)]
        else:
            network = MaskGenerator(5, 2, 5, (32, 32), checkpointing=kind == "checkpointed")
            torch.nn.init.normal_(network.conv_logits.weight)
            inputs = [torch.rand(1, 5, 32, 32), torch.ones(1, 1, 32, 32)]
        with NearestKink() as kink:
            network.double()(*(part.double() for part in inputs))
        if kink.distance > 5e-6:
            return network, inputs
    raise AssertionError("each has a number at a kink")


@pytest.mark.parametrize("kind", ["trained", "checkpointed", "frozen"])
def test_whole_networks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, [segmap, *rest] = smooth_network(kind)
    network = network.to(memory_format=torch.channels_last)

    def results(form: Any, dtype: torch.dtype) -> list[Tensor]:
        monkeypatch.setattr(modulation, "fast_form", lambda x: form)
        network.to(dtype).zero_grad()
        shown = segmap.to(dtype, copy=True).requires_grad_()
        result = network(shown, *(part.to(dtype) for part in rest))
        result.square().mean().backward()
        gradients = [part.grad for part in (shown, *network.parameters())]
        return [result.detach(), *(g.double() for g in gradients if g is not None)]

    ours, theirs = (results(form, torch.float32) for form in (fast, None))
    exact = results(None, torch.float64)
    largest = max(true.norm() for true in exact)  # a bias before a norm has no gradient
    for one, other, true in zip(ours, theirs, exact, strict=True):
        error, their_error = ((x - true).norm() for x in (one, other))
        assert error <= 2 * their_error + 1e-5 * true.norm() + 1e-7 * largest, (error, their_error)


@pytest.mark.parametrize("frozen", [False, True])
def test_keeps_no_more_for_the_backward_pass(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network: torch.nn.Module = MaskGenerator(5, 2, 8, (32, 32))
    inputs = [torch.rand(1, 5, 32, 32), torch.ones(1, 1, 32, 32)]
    if frozen:
        network, inputs = FrozenGenerator(SPADEGenerator(5, 2, 8, (32, 32))), inputs[:1]
    network = network.to(memory_format=torch.channels_last)

    def kept(form: Any) -> int:
        monkeypatch.setattr(modulation, "fast_form", lambda x: form)
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            network(inputs[0].clone().requires_grad_(), *inputs[1:])
        return sum(seen.values())

    assert kept(fast) < kept(None)
