"""What a step costs on this process: seconds by phase, arithmetic, memory.

A step is cut into intervals without gaps: each `mark` says what begins, so the phases add up to the
step. On a GPU the marks are events on its stream, read long after, so that nothing waits for the
device and the seconds are the device's, not those of the Python that runs ahead of it.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskrestore.data.fetch import num_failed_attempts

DATA, OTHER, BACKWARD = "data", "other", "backward"
COMMUNICATION, OPTIMIZER = "communication", "optimizer"

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "A10G": 70e12,
    "A10": 125e12,
    "V100": 125e12,
}
"""FLOP/s in bf16 (V100: fp16) without sparsity, from NVIDIA's data sheets, by whole words of the
device's name; the first ones that fit."""
MIG_SLICES = {"A30": 4}
"""Slices into which MIG cuts a GPU, where they are not 7."""

USAGE = (
    "busy",
    "shard_errors",
    "host",
    "host_limit",
    "allocated",
    "reserved",
    "device_limit",
    "retries",
)
"""Columns of `Measured.usage`: seconds of a step in which this process did not wait for others;
failed attempts to fetch a shard; bytes; allocations that the GPU's memory was too full for."""


@dataclass(frozen=True)
class Measured:
    """Steps since the last reading."""

    steps: list[float]
    """Seconds of each."""
    phases: dict[str, float]
    """Seconds of each phase, over all of these steps."""
    flops: float
    """Multiplications and additions of one step in the networks' convolutions, both passes."""
    usage: Tensor
    """float64 [len(USAGE)] on the device."""


class Meter:
    """Measures steps: `begin`, `mark` at each change of phase, `end`. Outside of a step marks count
    for nothing. active: whether to measure at all."""

    def __init__(self, device: torch.device, num_processes: int = 1, active: bool = True) -> None:
        self._device, self._num_processes, self._active = device, num_processes, active
        self._marks: list[tuple[str, Any]] | None = None
        self._steps: list[list[tuple[str, Any]]] = []
        self.phases = [DATA, BACKWARD, OPTIMIZER, COMMUNICATION, OTHER]
        """Names of all phases that a step may have."""
        self._num_parameters: dict[str, int] = {}
        self._left = 0
        self._flops = 0.0
        self._counting: list[Any] = []

    def attend(self, name: str, network: nn.Module) -> None:
        """Give a network's forward pass a phase of its own, and count its arithmetic."""
        if not self._active:
            return
        self.phases.append(name)
        network.register_forward_pre_hook(lambda *_: self.mark(name))
        network.register_forward_hook(lambda *_: self.mark(OTHER))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                self._counting.append(layer.register_forward_hook(self._count))
        trained = [p for p in network.parameters() if p.requires_grad]
        self._num_parameters[name] = len(trained)
        for parameter in trained if self._num_processes > 1 else ():
            parameter.register_post_accumulate_grad_hook(self._accumulated)

    def begin(self) -> None:
        """A step begins, with waiting for its data."""
        if self._active:
            self._marks = []
            self.mark(DATA)

    def mark(self, phase: str) -> None:
        """From here on it is `phase`."""
        if self._marks is not None:
            self._marks.append((phase, self._now()))

    @contextmanager
    def backward(self, name: str) -> Iterator[None]:
        """The backward pass of a trained network; once the last of its gradients is there, what is
        left of it is waiting for other processes."""
        self._left = self._num_parameters.get(name, 0)
        self.mark(BACKWARD)
        yield
        self.mark(OTHER)

    def end(self) -> None:
        """The step ends."""
        if self._marks is not None:
            self.mark("")
            self._steps.append(self._marks)
            self._marks = None
            if self._flops:  # not yet after a step that was passed over
                for hook in self._counting:
                    hook.remove()
                self._counting.clear()

    def read(self) -> Measured:
        """What was measured since the last call. On a GPU the caller has waited for it before.

        Nothing but zeros if that fails: a run does not end for want of its figures."""
        try:
            return self._read()
        except Exception:
            self._active = False
            self._steps.clear()
            zeros = torch.zeros(len(USAGE), dtype=torch.float64, device=self._device)
            return Measured([], dict.fromkeys(self.phases, 0.0), 0.0, zeros)

    def _read(self) -> Measured:
        steps, phases = [], dict.fromkeys(self.phases, 0.0)
        for marks in self._steps:
            steps.append(self._seconds(marks[0][1], marks[-1][1]))
            for (phase, start), (_, stop) in pairwise(marks):
                phases[phase] += self._seconds(start, stop)
        self._steps.clear()
        busy = (sum(steps) - phases[COMMUNICATION]) / max(len(steps), 1)
        facts = [busy, num_failed_attempts(), *_memory(self._device)]
        usage = torch.tensor(facts, dtype=torch.float64)
        return Measured(steps, phases, self._flops, usage.to(self._device))

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, start: Any, stop: Any) -> float:
        if self._device.type != "cuda":
            return float(stop - start)
        return float(start.elapsed_time(stop)) / 1000

    def _accumulated(self, _: Tensor) -> None:
        self._left -= 1
        if self._left == 0:
            self.mark(COMMUNICATION)

    def _count(self, layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """One pass forward, and as many back as gradients are wanted of it. By hooks, since torch's
        FlopCounterMode takes composite operations apart, which may round otherwise."""
        if self._marks is None or self._marks[-1][0] in (BACKWARD, COMMUNICATION):
            return  # not training, or activations that are computed a second time
        # Weights that DeepSpeed has cut up (ZeRO-3) know what they were.
        size = getattr(layer.weight, "ds_numel", layer.weight.numel())
        once = 2.0 * output.numel() * size / layer.out_channels
        needs_gradient = [any(x.requires_grad for x in inputs), layer.weight.requires_grad]
        self._flops += once * (1 + sum(needs_gradient) * torch.is_grad_enabled())


def peak_flops(device: torch.device, given: float) -> float:
    """FLOP/s of a device at best: what is given, else what is known; 0 if it is not."""
    if given or device.type != "cuda":
        return given
    name = torch.cuda.get_device_name(device)
    known = (model for model in PEAK_FLOPS if re.search(rf"\b{model}\b", name))
    model = next(known, None)
    if model is None:
        return 0.0
    slices = re.search(r"\bMIG (\d+)[cg]\.", name)  # as in A100-SXM4-40GB MIG 3g.20gb
    share = int(slices[1]) / MIG_SLICES.get(model, 7) if slices else 1.0
    return PEAK_FLOPS[model] * share


def _memory(device: torch.device) -> list[float]:
    """The columns of USAGE behind the first two."""
    host = _host_memory()
    if device.type != "cuda":
        return [*host, 0, 0, 0, 0]
    facts = torch.cuda.memory_stats(device)
    return [
        *host,
        facts["allocated_bytes.all.peak"],
        facts["reserved_bytes.all.peak"],
        torch.cuda.get_device_properties(device).total_memory,
        facts["num_alloc_retries"],
    ]


def _host_memory() -> list[float]:
    """Bytes of main memory that this process has, and that its machine has."""
    try:
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except FileNotFoundError:  # no Linux
        import psutil

        return [psutil.Process().memory_info().rss, psutil.virtual_memory().total]
    return [size * os.sysconf("SC_PAGE_SIZE") for size in (resident, os.sysconf("SC_PHYS_PAGES"))]
