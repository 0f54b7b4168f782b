"""A whole training step with loss=ce_vgg_l1, its time and its memory: python -m benchmarks.step

The loop's own step against plain modules in one script (plain_step.py), at the official size of
both generators, with VGG19 of random weights.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from pydantic import PositiveInt
from torchvision.models import vgg19
from tqdm import tqdm

from benchmarks import plain_step
from benchmarks.labels import NUM_CLASSES
from benchmarks.random_weights import calibrated
from benchmarks.side_by_side import Comparison, Side, computes_bf16, conditions, table
from maskrestore.config.cli import run_program
from maskrestore.config.data import Size
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.loader import Batch
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import make_accelerator
from maskrestore.models.build import load_frozen_generator
from maskrestore.models.weights import save_spade_generator
from maskrestore.monitoring.meter import Meter
from maskrestore.training.setup import make_engine, make_objective
from maskrestore.training.step import take_step
from maskrestore.utils.errors import UserError
from maskrestore.utils.system import keep_freed_memory, set_up_torch


class StepBenchmark(Section):
    """What to measure, and for how long."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where."""
    size: Size = "256x512"
    """Height x width in pixels."""
    batch_size: PositiveInt = 1
    """Images in a batch."""
    width: PositiveInt = 64
    """Channels of both generators' last blocks (the official one has 64)."""
    hidden: PositiveInt = 128
    """Channels inside each SPADE of both (the official one has 128)."""
    pairs: PositiveInt = 4
    """Turns of each side."""

    @property
    def height_width(self) -> tuple[int, int]:
        """`size` as two integers."""
        height, width = self.size.split("x")
        return int(height), int(width)


def ours(words: Sequence[str]) -> Callable[[], object]:
    """The loop's step, in its own environment."""
    set_up_torch()
    config = load_config(words)
    accelerator = make_accelerator(config, for_training=True)
    device = accelerator.device
    objective = make_objective(config, load_frozen_generator(config, device), device)
    engines: dict[str, Engine] = {}
    meter = Meter(device, active=False)
    for phase in objective.phases():
        bare = objective.networks[phase.network]
        engine = make_engine(accelerator, config, bare, phase.betas, None, "the benchmark")
        engines[phase.network], objective.networks[phase.network] = engine, engine.network
    size = (config.training.batch_size, *config.data.height_width)
    label_map = torch.randint(0, config.data.labels.num_classes, size)
    image = torch.randint(0, 256, (size[0], 3, *size[1:]), dtype=torch.uint8)
    batch = Batch(("",) * size[0], image, label_map, label_map, label_map).to(device)
    keep_freed_memory(device.type)
    return lambda: take_step(config, objective, engines, batch, 1, meter).total.item()


def main(words: Sequence[str]) -> None:
    """Measure, print the table."""
    config = parse(StepBenchmark, words)
    on_gpu = config.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no GPU here")
    has_bf16 = computes_bf16(config.device)
    with tempfile.TemporaryDirectory(prefix="maskrestore-step-") as folder:
        settings = _settings(config, Path(folder))
        kept = Side(ours, settings)
        again = Side(ours, [*settings, "distributed.activation_checkpointing=true"])
        shape = (config.batch_size, config.height_width, config.width, config.hidden)
        plain = Side(plain_step.make_step, config.device, *shape, has_bf16)
        rounds = [
            [side.turn() for side in (kept, again, plain)]
            for _ in tqdm(range(config.pairs + 1), "step", unit="round")
        ][1:]  # the first one warms up
    rows = []
    for number, name in enumerate(("", ", activations computed twice")):
        for kind, what in enumerate(("training step ce_vgg_l1", "peak memory of it")):
            mine = [turns[number][kind] / (1, 1e9)[kind] for turns in rounds]
            theirs = [turns[2][kind] / (1, 1e9)[kind] for turns in rounds]
            goal = (2.5 if on_gpu else 2.0, 2.0)[kind]
            against = f"plain script, {'bf16 autocast' if has_bf16 else 'fp32'}"
            ratios = tuple(b / a for a, b in zip(mine, theirs, strict=True))
            values = (median(mine), median(theirs), ("s", "GB")[kind])
            rows.append(Comparison(f"{what}{name}", against, goal, ratios, *values))
    if on_gpu:
        remark = "nothing here counts it; a run's metric maskrestore_mfu_ratio does"
        rows.append(Comparison("share of the GPU's peak FLOP/s", "1", 0.45, remark=remark))
    print(f"{table(rows)}\n\n{conditions(config.device)}")
    print(
        f"Batch {config.batch_size} of {config.size}, generators of width {config.width} and "
        f"hidden {config.hidden}. Memory: the most that the "
        + ("GPU's allocator held." if on_gpu else "process had in memory, libraries included.")
    )


def _settings(config: StepBenchmark, folder: Path) -> list[str]:
    """Settings of a run of ours, with files of random weights in `folder`."""
    best = "bf16" if computes_bf16(config.device) else "fp32"
    torch.manual_seed(0)
    generator = calibrated(NUM_CLASSES, config.width, config.hidden, config.height_width)
    save_spade_generator(generator, folder / "generator.pth")
    state = {k: v for k, v in vgg19().state_dict().items() if k.startswith("features.")}
    torch.save(state, folder / "vgg19.pth")
    return [
        f"distributed.device={config.device}",
        f"distributed.precision={best}",
        f"distributed.frozen_precision={'fp16' if config.device == 'cuda' else best}",
        f"data.size={config.size}",
        f"training.batch_size={config.batch_size}",
        f"mask_generator.width={config.width}",
        f"mask_generator.hidden={config.hidden}",
        f"generator.path={folder / 'generator.pth'}",
        "perceptual.network=vgg19",
        f"perceptual.weights={folder / 'vgg19.pth'}",
        f"run={folder / 'run'}",
    ]


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", StepBenchmark))
