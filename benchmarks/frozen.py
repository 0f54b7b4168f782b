"""The frozen image generator, forward and back to its input: python -m benchmarks.frozen

Ours against a plain SPADE (plain_spade.py) of the same random weights, at the official size, on a
CPU.
"""

import sys
from collections.abc import Callable, Sequence
from statistics import median

import torch
from pydantic import PositiveInt
from torch import Tensor
from tqdm import tqdm

from benchmarks.labels import NUM_CLASSES
from benchmarks.plain_spade import PlainGenerator
from benchmarks.random_weights import calibrated
from benchmarks.side_by_side import Comparison, Side, computes_bf16, conditions, table
from maskrestore.config.cli import run_program
from maskrestore.config.data import Size, height_and_width
from maskrestore.config.settings import Section, parse
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import in_precision
from maskrestore.utils.system import keep_freed_memory, set_up_torch

CHANNELS, WIDTH, HIDDEN = NUM_CLASSES + 2, 64, 128


class FrozenBenchmark(Section):
    """What to measure, and for how long."""

    size: Size = "256x512"
    """Height x width in pixels."""
    batch_size: PositiveInt = 1
    """Images in a batch."""
    pairs: PositiveInt = 5
    """Turns of each side."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the segmap."""
        return self.batch_size, CHANNELS, *height_and_width(self.size)


def ours(shape: tuple[int, int, int, int], precision: str) -> Callable[[], object]:
    """The program's own frozen generator, in its own environment."""
    set_up_torch()
    torch.manual_seed(0)
    generator = FrozenGenerator(calibrated(NUM_CLASSES, WIDTH, HIDDEN, shape[2:]))
    network = in_precision(generator, precision)
    keep_freed_memory("cpu")
    return passes(network, "cpu", shape)


def plain(shape: tuple[int, int, int, int], frozen: bool, autocast: bool) -> Callable[[], object]:
    """A plain SPADE, as a first user has it."""
    torch.manual_seed(0)
    network = PlainGenerator(CHANNELS, WIDTH, HIDDEN, shape[2:])
    network.load_state_dict(calibrated(NUM_CLASSES, WIDTH, HIDDEN, shape[2:]).state_dict())
    network.eval().requires_grad_(not frozen)

    def call(segmap: Tensor) -> Tensor:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            image: Tensor = network(segmap)
        return image

    return passes(call, "cpu", shape)


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
        if x.grad is None:
            raise RuntimeError("no gradient came back: this would measure nothing")
        return x.grad

    if not once().isfinite().all():
        raise RuntimeError("the gradient is not finite: this would measure nothing")
    return once


def main(words: Sequence[str]) -> None:
    """Measure, print the table."""
    config = parse(FrozenBenchmark, words)
    shape, has_bf16 = config.shape, computes_bf16()
    best = "bf16" if has_bf16 else "fp32"
    sides = {
        **{name: Side(ours, shape, name) for name in dict.fromkeys((best, "fp32"))},
        "plain, weight gradients on, fp32": Side(plain, shape, False, False),
        "plain, frozen, fp32": Side(plain, shape, True, False),
    }
    fastest = "plain, frozen, fp32"
    if has_bf16:
        fastest = "plain, frozen, bf16 autocast"
        sides[fastest] = Side(plain, shape, True, True)
    turns: dict[str, list[float]] = {name: [] for name in sides}
    for number in tqdm(range(config.pairs + 1), "frozen", unit="round"):
        for name, side in sides.items():
            seconds, _ = side.turn()
            if number:  # the first round warms up
                turns[name].append(seconds)
    rows = []
    pairs: list[tuple[str, str, float | None]] = [
        (best, fastest, 2.5),
        (best, "plain, weight gradients on, fp32", 6.0),
    ]
    if best != "fp32":
        pairs.append(("fp32", "plain, frozen, fp32", None))
    for mine, theirs, goal in pairs:
        ratios = [b / a for a, b in zip(turns[mine], turns[theirs], strict=True)]
        what = f"frozen forward + input gradient, frozen_precision={mine}"
        values = (median(turns[mine]), median(turns[theirs]))
        rows.append(Comparison(what, theirs, goal, tuple(ratios), *values))
    print(
        f"{table(rows)}\n\n{conditions()} Batch {config.batch_size} of {config.size}, "
        f"width {WIDTH}, hidden {HIDDEN}."
    )
    if not has_bf16:
        print(
            "This CPU has no instructions for bf16: PyTorch computes it without the vector unit, "
            "and a plain SPADE under bf16 autocast takes so long that fp32 stands in its place."
        )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", FrozenBenchmark))
