"""What trains one network on all processes of a run: wrapped, stepped, and its state put together.

The state is the same whatever engine wrote it: whole tensors by parameter name. A run can therefore
be resumed on another number of processes, at another ZeRO stage, or with the other engine.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskrestore.config.run import RunConfig

State = dict[str, Any]
"""weights: the network's state_dict. optimizer: {step: int, moments: {parameter's name: [exp_avg,
exp_avg_sq]}}, float32 of the parameter's shape; empty moments before the first step. scaler: of
fp16, else empty."""
START_SCALE = 2.0**10
"""What fp16 multiplies the loss by at first. torch's own start, 2**16, overflows in the first steps
of small networks, each of which is then without effect; this one grows to it in 12,000 steps."""


class Engine(Protocol):
    """One trained network and its Adam optimizer on all processes."""

    network: nn.Module
    """What to call in training."""

    def part(self, is_last: bool) -> Any:
        """A context around the forward and backward pass of one part of the batch."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss (mean over this process's part, already divided by the number
        of parts). If it is not finite, the step will have no effect on any process."""

    def step(self, learning_rate: float) -> Tensor:
        """Take one optimizer step, the same on every process, and forget the gradient.

        Returns the gradient's L2 norm before clipping, 0-dim on the device; if it is not finite,
        weights, buffers and optimizer are as before.
        """

    def loss_scale(self) -> Tensor:
        """What fp16 multiplies the next loss by, else 1: float32, 0-dim on the device."""

    def whole(self) -> nn.Module:
        """A bare network with the present weights, whole on this process. Call it on all."""

    def state(self) -> State:
        """Everything that training goes on from, whole on the main process, as live tensors or
        copies. Call it on all processes."""


class Replicated:
    """Every process holds the whole network (DistributedDataParallel), or is the only one."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: RunConfig,
        network: nn.Module,
        betas: tuple[float, float],
        state: State | None,
    ) -> None:
        # On several GPUs batch norm takes its statistics over all of them; gloo cannot do that, so
        # on CPUs each process uses its own part (the mask generator has no batch norm).
        if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self._bare = network
        self._max_norm = config.training.max_gradient_norm
        self._parameters = dict(network.named_parameters())
        self._buffers = [b for b in network.buffers() if b.is_floating_point()]
        self._kept = [buffer.clone() for buffer in self._buffers]
        # fused, since it alone can leave a step out without asking the device whether to.
        self._optimizer: Any = torch.optim.Adam(trained(network), betas=betas, fused=True)
        fp16 = config.distributed.precision == "fp16"
        self._scaler = torch.amp.GradScaler(accelerator.device.type, START_SCALE, enabled=fp16)
        self._one = torch.ones((), device=accelerator.device)
        if state is not None:
            load_moments(self._optimizer, self._parameters, state["optimizer"])
            if fp16:
                self._scaler.load_state_dict(state["scaler"])
        self.network: nn.Module = accelerator.prepare_model(network)

    @contextmanager
    def part(self, is_last: bool) -> Iterator[None]:
        """Gradients are exchanged in the backward pass of the last part alone."""
        network = self.network
        if is_last or not isinstance(network, DistributedDataParallel):
            yield
        else:
            with network.no_sync():
                yield

    def backward(self, loss: Tensor) -> None:
        """See Engine."""
        self._scaler.scale(poisoned(loss)).backward()

    def step(self, learning_rate: float) -> Tensor:
        """See Engine."""
        self._scaler.unscale_(self._optimizer)
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self._max_norm:
            nn.utils.clip_grads_with_norm_(self._parameters.values(), self._max_norm, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if not self._scaler.is_enabled():  # else it does this itself
            self._optimizer.found_inf = (~norm.isfinite()).float()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        # Batch statistics were gathered before anyone knew: take them back with the step.
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(torch.where(norm.isfinite(), buffer, kept))
            kept.copy_(buffer)
        return norm

    def loss_scale(self) -> Tensor:
        """See Engine."""
        return self._scaler.scale(self._one)  # its get_scale waits for the device

    def whole(self) -> nn.Module:
        """See Engine."""
        return self._bare

    def state(self) -> State:
        """See Engine."""
        moments = {
            name: [kept["exp_avg"], kept["exp_avg_sq"]]
            for name, parameter in self._parameters.items()
            if (kept := self._optimizer.state.get(parameter))
        }
        steps = [int(kept["step"]) for kept in self._optimizer.state.values()]
        return {
            "weights": self._bare.state_dict(),
            "optimizer": {"step": max(steps, default=0), "moments": moments},
            "scaler": self._scaler.state_dict(),
        }


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimizer changes; a network may hold frozen ones."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def load_moments(
    optimizer: torch.optim.Adam, parameters: Mapping[str, nn.Parameter], saved: State
) -> None:
    """Put the saved step and moments into an Adam optimizer of whole parameters."""
    for name, (average, square) in saved["moments"].items():
        parameter = parameters[name]
        optimizer.state[parameter] = {
            "step": torch.tensor(float(saved["step"]), device=parameter.device),
            # In the parameter's layout: fused Adam goes through memory.
            "exp_avg": torch.empty_like(parameter, dtype=average.dtype).copy_(average),
            "exp_avg_sq": torch.empty_like(parameter, dtype=square.dtype).copy_(square),
        }


def poisoned(loss: Tensor) -> Tensor:
    """The loss, with a gradient that is nowhere finite if the loss is not.

    Its NaN reaches all processes with the gradient, so that they all leave the step out; nobody has
    to wait for the device to learn of it.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)
