"""What stands between the convolutions of the SPADE form: norm, modulation, activations.

Each in a plain form, and on a GPU that Triton computes for in one of few passes over memory
(models/fast_modulation.py).
"""

import functools
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.models.spade import EPSILON, SLOPE

TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.03}
"""Of a trial of the fast form in the formats that it computes in."""


def modulated(
    x: Tensor, doubled: bool, modulations: Sequence[Tensor], normalized: bool
) -> tuple[Tensor, ...]:
    """x * scale + shift for each modulation [scale, shift] [B,2C,h,w], or x * scale for one of
    [B,C,h,w]. A leaky ReLU follows the first. normalized: x is first normalised by instance.

    x [B,C,h,w], or half as high and wide if doubled. The results are of the modulations' dtype.
    """
    fast = fast_form(modulations[0])
    form = plain_modulated if fast is None else fast.modulated
    with torch.autocast(x.device.type, enabled=False):  # on CUDA it would compute in float32
        results: tuple[Tensor, ...] = form(x, doubled, modulations, normalized)
    return results


def split_relu(x: Tensor, count: int, keep_results: bool) -> tuple[Tensor, ...]:
    """ReLU of [B,count*C,h,w] as `count` tensors. keep_results: whether what follows keeps the
    results for its backward pass anyway, so that they are kept here too; or else only signs."""
    fast = fast_form(x)
    form = plain_split_relu if fast is None else fast.split_relu
    results: tuple[Tensor, ...] = form(x, count, keep_results)
    return results


def double(x: Tensor) -> Tensor:
    """Each pixel becomes 2x2 equal ones."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=2, mode="nearest")


def fast_form(x: Tensor) -> Any | None:
    """The module of the fast form where it can be had: on a GPU, for tensors that are
    channels_last. What torch.compile compiles it makes fast itself."""
    if not x.is_cuda or torch.compiler.is_compiling() or x.dtype not in TOLERANCES:
        return None
    if not x.is_contiguous(memory_format=torch.channels_last):
        return None
    return _tried(x.device, x.dtype)


@functools.cache
def _tried(device: torch.device, dtype: torch.dtype) -> Any | None:
    """The fast form, if it computes what the plain form does; else it is told why not, once."""
    try:
        from maskrestore.models import fast_modulation as fast

        # In a thread of its own: hooks, modes and autocast around the first use are not for it.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(try_out, fast, device, dtype).result()
    except Exception as error:  # of a compiler, a driver, a disk
        name = str(dtype).removeprefix("torch.")
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        print(
            f"Triton's kernels cannot be used for {name} on {device} ({reason}): the trained and "
            "the frozen generator compute the same without them, in more time and memory",
            file=sys.stderr,
        )
        return None
    return fast


def try_out(fast: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Raises RuntimeError if the fast form computes something else than the plain form, and
    whatever Triton raises."""

    def drawn(channels: int, size: int) -> Tensor:  # no random numbers: those are the run's
        values = torch.arange(2 * channels * size * size).mul(0.37 * channels).sin().to(dtype)
        return values.view(2, size, size, channels).permute(0, 3, 1, 2)

    inputs = [drawn(16, 4), drawn(32, 8), drawn(24, 8)]
    gradients = [drawn(16, 8), *(drawn(8, 8 + number)[..., :8, :8] for number in range(3))]

    def results(
        form: tuple[Any, Any], place: torch.device, kind: torch.dtype = dtype
    ) -> list[Tensor]:
        x, modulation, hidden = (
            part.to(place, kind, copy=True).requires_grad_() for part in inputs
        )
        modulated, split_relu = form
        whole = [*modulated(x, True, [modulation], True), *split_relu(hidden, 3, False)]
        torch.autograd.backward(whole, [part.contiguous().to(place, kind) for part in gradients])
        every = [*whole, x.grad, modulation.grad, hidden.grad]
        return [part.detach().to("cpu", torch.float32) for part in every if part is not None]

    plain = results((plain_modulated, plain_split_relu), torch.device("cpu"), torch.float32)
    found = results((fast.modulated, fast.split_relu), device)
    for one, other in zip(found, plain, strict=True):
        error = float((one - other).abs().max() / other.abs().max())
        if not error < TOLERANCES[dtype]:
            raise RuntimeError(f"a trial was wrong by {error:.2g} of the largest number")


def plain_modulated(
    x: Tensor, doubled: bool, modulations: Sequence[Tensor], normalized: bool
) -> tuple[Tensor, ...]:
    """`modulated` of torch's own operations."""
    if normalized:  # nn.InstanceNorm2d refuses a 1x1 map, the latent one of a 64x64 image
        x = torch.group_norm(x, x.shape[1], eps=EPSILON)
    results: tuple[Tensor, ...] = _Modulated.apply(
        x.to(modulations[0].dtype), doubled, *modulations
    )
    return results


def plain_split_relu(x: Tensor, count: int, keep_results: bool) -> tuple[Tensor, ...]:
    """`split_relu` of torch's own operations."""
    results: tuple[Tensor, ...] = _SplitReLU.apply(x, count, keep_results)
    return results


class _Modulated(torch.autograd.Function):
    """Remembers x before it is doubled, and the modulations; nothing of the results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, doubled: bool, *modulations: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *modulations)
        ctx.doubled = doubled
        large = double(x) if doubled else x
        first, *rest = (_scale_and_shift(large, modulation) for modulation in modulations)
        return F.leaky_relu_(first, SLOPE), *rest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, *modulations = ctx.saved_tensors
        channels = x.shape[1]
        large = double(x) if ctx.doubled else x
        before = _scale_and_shift(large, modulations[0])
        first = torch.ops.aten.leaky_relu_backward(gradients[0], before, SLOPE, False)
        del before
        of_modulations = []
        of_x: Tensor | None = None
        for gradient, modulation in zip((first, *gradients[1:]), modulations, strict=True):
            of_modulations.append(_of_scale_and_shift(gradient, large, modulation))
            scale = modulation[:, :channels]
            of_x = gradient * scale if of_x is None else of_x.addcmul_(gradient, scale)
        if ctx.doubled and of_x is not None:
            of_x = F.avg_pool2d(of_x, 2, divisor_override=1)
        return of_x, None, *of_modulations


def _scale_and_shift(x: Tensor, modulation: Tensor) -> Tensor:
    channels = x.shape[1]
    if modulation.shape[1] == channels:
        return x * modulation
    return torch.addcmul(modulation[:, channels:], x, modulation[:, :channels])


def _of_scale_and_shift(gradient: Tensor, x: Tensor, modulation: Tensor) -> Tensor:
    """The modulation's gradient."""
    channels = x.shape[1]
    if torch.compiler.is_compiling():  # it knows no part as `out`, and puts these in one
        parts = [gradient * x, gradient][: modulation.shape[1] // channels]
        return torch.cat(parts, 1)
    result = torch.empty_like(modulation)
    torch.mul(gradient, x, out=result[:, :channels])
    if modulation.shape[1] > channels:
        result[:, channels:] = gradient
    return result


class _SplitReLU(torch.autograd.Function):
    """Remembers the results, or a byte for each number of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, keep_results: bool) -> Any:
        if x.is_contiguous():
            results = F.relu(x).chunk(count, 1)
        else:  # channels_last: parts of their own, or each convolution would copy its part
            results = tuple(F.relu(part) for part in x.chunk(count, 1))
        ctx.save_for_backward(*(results if keep_results else [r > 0 for r in results]))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        of_x = torch.cat(gradients, 1)
        for part, kept in zip(of_x.chunk(len(gradients), 1), ctx.saved_tensors, strict=True):
            part.mul_(kept if kept.dtype == torch.bool else kept > 0)
        return of_x, None, None
