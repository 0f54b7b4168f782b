"""Small batches and networks whose figures are known, for the tests of evaluations."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from label_sets import NUM_CLASSES
from torch import Tensor, nn

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.loader import Batch
from maskrestore.data.segmap import generator_input
from maskrestore.evaluation.evaluate import evaluate

CPU = torch.device("cpu")


HEIGHT, WIDTH = 32, 64


def config_of(*words: str) -> RunConfig:
    return load_config(["evaluation.features=lite0", "data.size=32x64", *words])


def batch_of(*indices: int) -> Batch:
    """Samples that are a function of their index alone."""
    rows = []
    for index in indices:
        draw = torch.Generator().manual_seed(index)
        fine = torch.randint(0, NUM_CLASSES, (4, 8), generator=draw)
        fine = fine.repeat_interleave(8, 0).repeat_interleave(8, 1)
        unannotated = torch.rand(HEIGHT, WIDTH, generator=draw) < 0.3
        image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=draw, dtype=torch.uint8)
        instance = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH) // 100
        rows.append((image, fine, fine.masked_fill(unannotated, 0), instance))
    return Batch(tuple(f"scene_{i}" for i in indices), *map(torch.stack, zip(*rows, strict=True)))


class FillRoad(nn.Module):
    """A mask generator that keeps what is annotated and calls the rest road."""

    def forward(self, start: Tensor, valid: Tensor, near: Tensor) -> Tensor:
        assert (start.sum(1) == 1).all()
        assert torch.equal(near == 1, valid == 1)
        logits = start * valid
        logits[:, 7] += 1 - valid[:, 0]
        return logits


class Painter(nn.Module):
    """An image generator; remembers the last input and whether it was in training mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(NUM_CLASSES + 2, 3, 1)
        self.seen = torch.empty(0)
        self.seen_training = False

    def forward(self, segmap: Tensor, edges: str, instance: Tensor, *_: object) -> Tensor:
        self.seen = generator_input(segmap, edges, instance)
        self.seen_training = self.training
        image: Tensor = self.convolution(self.seen).tanh()
        return image


SHARES = (
    (((0, 2), (4,)), ((1, 3),)),  # two batches here, one there
    (((0, 1),), ()),  # nothing at all there
)
"""Case -> process -> batches of sample numbers."""


class Kept:
    """What RealFeatures does, in memory."""

    known: Tensor | None = None

    def keep(self, features: Tensor) -> None:
        self.known = features


def figures_of(
    batches: Iterable[Sequence[int]], real_features: Any = None, painter: nn.Module | None = None
) -> dict[str, Any]:
    inputs = [batch_of(*indices) for indices in batches]
    painter, config = painter or Painter(), config_of("task=densify")
    return evaluate(config, inputs, FillRoad(), painter, CPU, real_features=real_features)
