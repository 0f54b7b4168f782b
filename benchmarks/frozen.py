"""The frozen image generator, forward and back to its input: python -m benchmarks.frozen

Ours against a plain SPADE (plain_spade.py) of the same random weights, at the official size.
"""

import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from tqdm import tqdm

from benchmarks.plain_spade import PlainGenerator
from benchmarks.side_by_side import Comparison, Side, conditions, table
from maskrestore.config import Size, load_config
from maskrestore.distributed import make_accelerator
from maskrestore.labels import NUM_CLASSES
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half import in_precision
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.winograd import stands_in
from maskrestore.program import run_program, set_up_torch
from maskrestore.settings import Section, UserError, parse

CHANNELS, WIDTH, HIDDEN = NUM_CLASSES + 2, 64, 128


class FrozenBenchmark(Section):
    """What to measure, and for how long."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where."""
    size: Size = "256x512"
    """Height x width in pixels."""
    batch_size: PositiveInt = 1
    """Images in a batch."""
    pairs: PositiveInt = 5
    """Turns of each side."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the segmap."""
        height, width = self.size.split("x")
        return self.batch_size, CHANNELS, int(height), int(width)


def ours(device: str, shape: tuple[int, int, int, int], precision: str) -> Callable[[], object]:
    """The program's own frozen generator, in its own environment."""
    set_up_torch()
    make_accelerator(load_config([f"distributed.device={device}"]), for_training=False)
    torch.manual_seed(0)
    generator = FrozenGenerator(SPADEGenerator(CHANNELS, WIDTH, HIDDEN, shape[2:]))
    network = in_precision(generator.to(device), precision)
    return passes(network, device, shape)


def plain(
    device: str, shape: tuple[int, int, int, int], frozen: bool, autocast: bool
) -> Callable[[], object]:
    """A plain SPADE, as a first user has it."""
    torch.manual_seed(0)
    network = PlainGenerator(CHANNELS, WIDTH, HIDDEN, shape[2:]).to(device).eval()
    network.requires_grad_(not frozen)

    def call(segmap: Tensor) -> Tensor:
        network.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            image: Tensor = network(segmap)
        return image

    return passes(call, device, shape)


def passes(
    call: Callable[[Tensor], Tensor], device: str, shape: tuple[int, int, int, int]
) -> Callable[[], object]:
    """One pass forward and back through `call`."""
    torch.manual_seed(1)
    segmap = torch.randn(shape).softmax(1).to(device)
    target = 2 * torch.rand(shape[0], 3, *shape[2:], device=device) - 1

    def once() -> Tensor:
        x = segmap.clone().requires_grad_()
        (call(x).float() - target).abs().mean().backward()
        assert x.grad is not None  # noqa: S101
        return x.grad

    return once


def main(words: Sequence[str]) -> None:
    """Measure, print the table."""
    config = parse(FrozenBenchmark, words)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no GPU here")
    precision = "fp16" if config.device == "cuda" else "bf16"
    without_bf16 = stands_in(precision, torch.device(config.device))
    half = "fp32 (no bf16 here)" if without_bf16 else "bf16 autocast"
    peers = [
        (
            f"plain, frozen, {half}",
            3.0 if config.device == "cuda" else 2.5,
            (True, not without_bf16),
        ),
        ("plain, weight gradients on, fp32", 6.0, (False, False)),
    ]
    fast = Side(ours, config.device, config.shape, precision)
    slow = [Side(plain, config.device, config.shape, *kind) for _, _, kind in peers]
    turns: list[list[float]] = []
    for _ in tqdm(range(config.pairs + 1), "frozen", unit="round"):
        turns.append([side.turn()[0] for side in (fast, *slow)])
    mine, *others = zip(*turns[1:], strict=True)  # the first one warms up
    what = f"frozen forward + input gradient, batch {config.batch_size} of {config.size}"
    rows = [
        Comparison(
            what,
            against,
            goal,
            tuple(b / a for a, b in zip(mine, other, strict=True)),
            median(mine),
            median(other),
            remark="ours: fp32, Winograd" if without_bf16 else f"ours: {precision}",
        )
        for (against, goal, _), other in zip(peers, others, strict=True)
    ]
    print(f"{table(rows)}\n\n{conditions(config.device)}")
    if without_bf16:
        print(
            "This CPU has no instructions for bf16: PyTorch computes it without the vector unit, "
            "and a plain SPADE under bf16 autocast takes so long that it was not measured."
        )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", FrozenBenchmark))
