"""The SPADE form on other machines than a CPU: what CUDA's autocast makes of it, torch.compile."""

import json
from collections.abc import Callable

import null_gpu
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.fused import double
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.spade import SPADEGenerator

SEEN = """
import json, os
from torch.utils._python_dispatch import TorchDispatchMode
from maskrestore.models.mask_generator import MaskGenerator

seen = {}

class Formats(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple) else result
        name = function.overloadpacket.__name__
        if isinstance(first, torch.Tensor) and first.dim() == 4:
            seen.setdefault(name, set()).add(str(first.dtype))
        return result

network = MaskGenerator(5, 2, 4, (64, 64)).cuda()
mask = torch.zeros(2, 5, 64, 64, device="cuda"), torch.ones(2, 1, 64, 64, device="cuda")
with Formats():
    with torch.autocast("cuda", torch.bfloat16):
        logits = network(*mask)
    logits.float().sum().backward()
print(json.dumps({name: sorted(formats) for name, formats in seen.items()}), flush=True)
os._exit(0)  # a thread of the backward pass may still be there
"""


@pytest.mark.slow
def test_autocast_on_a_gpu_computes_the_blocks_in_half_precision() -> None:
    """CUDA's autocast has interpolate and group_norm in float32, and what takes their results."""
    seen = json.loads(null_gpu.run_there(SEEN))
    forward = ("addcmul", "native_group_norm", "upsample_nearest2d", "leaky_relu_")
    backward = ("addcmul_", "native_group_norm_backward", "leaky_relu_backward", "avg_pool2d")
    convolutions = ("convolution", "convolution_backward")
    for name in (*convolutions, *forward, *backward):
        assert seen[name] == ["torch.bfloat16"], (name, seen[name])


def test_autocast_on_a_cpu_does_so_by_itself() -> None:
    """Bit for bit: switching it off in those places is nothing to a CPU."""
    x = torch.randn(2, 3, 4, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        enlarged = F.interpolate(x, scale_factor=2, mode="nearest")
        assert enlarged.dtype == torch.bfloat16
        assert torch.equal(double(x), enlarged)
        assert torch.group_norm(x, 3).dtype == torch.bfloat16


def trained() -> tuple[nn.Module, Tensor, list[Tensor]]:
    return MaskGenerator(5, 2, 4, (64, 64)), torch.rand(2, 5, 64, 64), [torch.ones(2, 1, 64, 64)]


def frozen() -> tuple[nn.Module, Tensor, list[Tensor]]:
    return FrozenGenerator(SPADEGenerator(6, 2, 4, (64, 64))), torch.rand(2, 6, 64, 64), []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's own, of what it is compiled with
@pytest.mark.parametrize("make", [trained, frozen])
def test_torch_compiles_it_whole(
    make: Callable[[], tuple[nn.Module, Tensor, list[Tensor]]],
) -> None:
    torch.manual_seed(0)
    network, segmap, rest = make()
    network = network.to(memory_format=torch.channels_last)
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")

    def results(call: Callable[..., Tensor]) -> list[Tensor]:
        network.zero_grad()
        shown = segmap.clone().requires_grad_()
        result = call(shown, *rest)
        result.square().mean().backward()
        gradients = [part.grad for part in (shown, *network.parameters())]
        return [result, *(gradient for gradient in gradients if gradient is not None)]

    expected = results(network)
    for found, value in zip(results(compiled), expected, strict=True):
        torch.testing.assert_close(found, value)
