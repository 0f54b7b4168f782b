"""Frozen networks in half precision whose input gradient is not lost.

The gradient of a mean over an image is about 1 / (number of elements): at 512x1024 in batches of 8
smaller than fp16's smallest number, so that it arrives as zero. (DeepSpeed and GradScaler scale the
loss only where the trained network itself is in fp16.) Here it is scaled where it enters the frozen
network's backward pass, and unscaled where it leaves.
"""

from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.models.frozen import Frozen

START_EXPONENT, LOWEST_EXPONENT = 0, -10
"""log2 of the largest gradient element that enters, at first and at least. fp16 ends at 2**16, and
the largest gradient inside a SPADE generator of random weights was measured to be 2**15 times what
enters (EfficientNet-Lite0: 2**9). Downwards fp16 is exact to 2**-14, and ends at 2**-24."""
STEPS_UP = 1000
"""Steps in a row with a finite gradient after which an exponent that was lowered rises by 1."""


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """A frozen network, where it stands, in `precision` (fp32, bf16, fp16)."""
    network = network.to(memory_format=torch.channels_last)
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return network if precision == "fp32" else HalfPrecision(network, kinds[precision])


class HalfPrecision(Frozen):
    """A frozen network computed in fp16 or bf16, outside of autocast.

    fp16: the gradient of all its outputs together is multiplied by a power of two, chosen on the
    device each time, so that its largest element lies just below 2**exponent: right from the first
    step, at any size, loss weight or outer loss scale. If it overflows inside all the same it
    leaves as inf or NaN, the step has no effect (distributed/engine.py), and `update` lowers the
    exponent for the next. bf16 reaches as far as fp32 and is not scaled.

    network is converted where it stands, not copied. What is left between the gradient and that of
    fp32 is the forward pass's rounding, which flips ReLUs: more in bf16, and in deep networks.
    """

    exponent: Tensor
    num_finite: Tensor
    scale: Tensor
    """The factor of the last backward pass, float32."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        device = next(network.parameters()).device
        self.network = network.to(dtype)
        self.dtype = dtype
        # Integers: Module.to(dtype) leaves them as they are.
        self.register_buffer("exponent", torch.tensor(START_EXPONENT, device=device))
        self.register_buffer("num_finite", torch.tensor(0, device=device))
        self.register_buffer("scale", torch.tensor(1.0, device=device), persistent=False)
        self.freeze()

    def forward(self, x: Tensor, *constants: Tensor) -> Any:
        """float tensor -> what the network gives, a tensor or a list of them, as float32.

        constants: further inputs of the network, without a gradient.
        """
        others = [constant.to(self.dtype) for constant in constants]
        with torch.autocast(x.device.type, enabled=False):
            if self.dtype != torch.float16 or not (torch.is_grad_enabled() and x.requires_grad):
                result = self.network(x.to(self.dtype), *others)
                return [y.float() for y in result] if isinstance(result, list) else result.float()
            used: list[Tensor] = []  # the factor of this call's backward pass, once it has begun
            result = self.network(_Unscaled.apply(x, self.dtype, used), *others)
            outputs = result if isinstance(result, list) else [result]
            scaled = _Scaled.apply(self, used, *outputs)
            return list(scaled) if isinstance(result, list) else scaled[0]

    def update(self, finite: Tensor) -> None:
        """After each step: whether its whole gradient was finite (bool, 0-dim, on the device)."""
        if self.dtype != torch.float16:
            return
        lowered = (self.exponent - 2).clamp(min=LOWEST_EXPONENT)
        risen = (self.exponent + 1).clamp(max=START_EXPONENT)
        num_finite = torch.where(finite, self.num_finite + 1, 0)
        rises = num_finite >= STEPS_UP
        kept = torch.where(rises, risen, self.exponent)
        self.exponent.copy_(torch.where(finite, kept, lowered))
        self.num_finite.copy_(torch.where(rises, 0, num_finite))

    def scaling_state(self) -> dict[str, Tensor]:
        """What the scaling goes on from after a resume."""
        return {"exponent": self.exponent, "num_finite": self.num_finite}

    def load_scaling_state(self, state: dict[str, Tensor]) -> None:
        """Go on from `scaling_state`."""
        self.exponent.copy_(state["exponent"])
        self.num_finite.copy_(state["num_finite"])


class _Scaled(torch.autograd.Function):
    """Outputs of the network to float32; their gradients, scaled together, back to half."""

    @staticmethod
    def forward(ctx: Any, owner: HalfPrecision, used: list[Tensor], *outputs: Tensor) -> Any:
        ctx.owner, ctx.used = owner, used
        ctx.set_materialize_grads(False)
        return tuple(output.float() for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        owner = ctx.owner
        largest = torch.stack([g.abs().amax() for g in gradients if g is not None]).amax()
        # largest = m * 2**e with m in [0.5, 1). Zeros, inf and NaN have no such e, and stay what
        # they are whatever they are multiplied by. 2**power from its bits: exact on any device.
        power = (owner.exponent - torch.frexp(largest).exponent).clamp(-126, 126)
        scale = ((power + 127) << 23).int().view(torch.float32)
        owner.scale.copy_(scale)
        ctx.used.append(scale)
        halves = [None if g is None else (g * scale).to(owner.dtype) for g in gradients]
        return None, None, *halves


class _Unscaled(torch.autograd.Function):
    """The input of the network to half; its gradient, unscaled, back to the input's format."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, used: list[Tensor]) -> Tensor:
        ctx.used, ctx.dtype = used, x.dtype
        return x.to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return (gradient.float() / ctx.used[-1]).to(ctx.dtype), None, None
