"""Scaling: two processes against one on this machine, and what goes over the wire.

python -m benchmarks.scaling

Weak scaling: each process has one thread and a batch of the same size; DDP and ZeRO-2, each with a
cheap and a dear loss. In every round one process, two that know nothing of each other, and two that
train together take turns, so that other work on the machine meets all alike. Bytes are those that a
process really writes to its sockets. Then, on paper, what such bytes mean for many GPUs. Linux
only. Figures and what they mean: docs/performance.md.
"""

import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from tqdm import tqdm

from benchmarks.labels import NUM_CLASSES
from maskrestore.config.cli import run_program
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.loader import Batch
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import make_accelerator
from maskrestore.models.build import load_frozen_generator, make_mask_generator
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import save_spade_generator
from maskrestore.monitoring.meter import Meter
from maskrestore.training.agreement import Ballot
from maskrestore.training.setup import make_engine, make_objective
from maskrestore.training.step import take_step
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically
from maskrestore.utils.system import count_cores

BATCH, SIZE = 4, (64, 128)
"""Images per process and step, and their height and width."""
ENGINES = {
    "DDP": "distributed.engine=ddp",
    "ZeRO-2": "distributed.engine=deepspeed distributed.zero_stage=2",
}
LOSSES = {"CE": "loss=ce", "CE+Lite0+L1": "loss=ce_vgg_l1 perceptual.network=lite0"}
TURNS = {"alone": [0], "apart": [0, 1], "together": [2, 3]}
"""Which of four processes take part: two that are alone in the world, and a pair."""

NODE, NVLINK, INFINIBAND, HOP = 8, 450e9, 50e9, 5e-6
"""Assumed, for the table on paper: GPUs per node, bytes per second and GPU within and across nodes
(one direction), and seconds of latency per step of a ring."""
BUCKETS = {"DDP": 25 * 2**20, "ZeRO-2": 200_000_000}
"""Bytes exchanged at a time: DistributedDataParallel's default, and zero.BUCKET float32 numbers."""


class ScalingConfig(Section):
    """How long to measure."""

    rounds: PositiveInt = 6
    """Rounds, of which medians are taken."""
    steps: PositiveInt = 3
    """Measured steps of each turn, after one that is not."""
    compute_seconds: PositiveFloat = 0.2
    """Assumed, for the table on paper: seconds that a GPU computes in each step."""
    out: Path | None = None
    """File for the tables, beside printing them."""


def volume(engine: str, num_parameters: int, num_processes: int) -> float:
    """Bytes that each process sends per step, by the ring's formula (float32).

    DDP: one all-reduce of the gradient. DeepSpeed's ZeRO-2: an all-reduce of it too (its default,
    use_multi_rank_bucket_allreduce, in the place of a reduce-scatter), and an all-gather of the
    weights.
    """
    passes = {"DDP": 2, "ZeRO-2": 3}[engine]
    return passes * (num_processes - 1) / num_processes * 4 * num_parameters


def serve(connection: Connection, words: Sequence[str], rank: int, world: int, port: int) -> None:
    """A process that trains: sends its number of parameters, then for each number of steps that it
    receives the seconds that they took and the bytes written per step. 0 ends it."""
    os.dup2(2, 1)  # DeepSpeed talks
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}.items():
        os.environ[name] = str(value)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    step, num_parameters = make_step(words, world)
    connection.send(num_parameters)
    for steps in iter(connection.recv, 0):
        step()
        before, began = written_bytes(), time.perf_counter()
        for _ in range(steps):
            step()
        seconds = time.perf_counter() - began
        connection.send((seconds, (written_bytes() - before) / steps))


def make_step(words: Sequence[str], world: int) -> tuple[Callable[[], None], int]:
    """What the loop does between two reports, on a batch in memory; and the number of trained
    parameters."""
    config = load_config([*words, f"training.batch_size={BATCH * world}"])
    accelerator = make_accelerator(config, for_training=True)
    image_generator = load_frozen_generator(config, accelerator.device)
    objective = make_objective(config, image_generator, accelerator.device)
    num_parameters = sum(p.numel() for p in objective.networks["mask_generator"].parameters())
    engines: dict[str, Engine] = {}
    for phase in objective.phases():
        bare = objective.networks[phase.network]
        engine = make_engine(accelerator, config, bare, phase.betas, None, "the benchmark")
        engines[phase.network], objective.networks[phase.network] = engine, engine.network
    image = torch.randint(0, 256, (BATCH, 3, *SIZE), dtype=torch.uint8)
    label_map = torch.randint(0, NUM_CLASSES, (BATCH, *SIZE))
    batch = Batch(("",) * BATCH, image, label_map, label_map, label_map)
    ballot, meter = Ballot(accelerator, config), Meter(accelerator.device)

    def step() -> None:
        ballot.cast(0)
        take_step(config, objective, engines, batch, config.training.batch_size, meter)
        ballot.count()

    return step, num_parameters


def written_bytes() -> int:
    """Bytes that this process has written so far, to sockets as to files."""
    facts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(facts["wchar"])


@dataclass(frozen=True)
class Measured:
    """One engine with one loss. rates: turn -> samples per second of all its processes, a round
    each; sent: bytes per step and process of the pair."""

    engine: str
    loss: str
    num_parameters: int
    rates: dict[str, list[float]]
    sent: float


def measure(config: ScalingConfig, engine: str, loss: str, generator: Path, bar: Any) -> Measured:
    """Start four processes and let them take turns. UserError if one of them ends by itself."""
    height, width = SIZE
    words = f"{ENGINES[engine]} {LOSSES[loss]} data.size={height}x{width}".split()
    words += ["distributed.device=cpu", "distributed.cpu_threads=1", f"generator.path={generator}"]
    context = multiprocessing.get_context("spawn")
    ports = [free_port() for _ in range(3)]
    processes, ends = [], []
    for rank, world, port in [(0, 1, 0), (0, 1, 1), (0, 2, 2), (1, 2, 2)]:
        end, other = context.Pipe()
        arguments = (other, words, rank, world, ports[port])
        processes.append(context.Process(target=serve, args=arguments, daemon=True))
        processes[-1].start()
        other.close()
        ends.append(end)
    rates: dict[str, list[float]] = {turn: [] for turn in TURNS}
    sent = []
    try:
        num_parameters, *_ = [end.recv() for end in ends]  # all are ready
        for number in range(config.rounds):
            for turn in list(TURNS) if number % 2 else reversed(TURNS):
                for member in TURNS[turn]:
                    ends[member].send(config.steps)
                measured = [ends[member].recv() for member in TURNS[turn]]
                rates[turn].append(sum(BATCH * config.steps / seconds for seconds, _ in measured))
                if turn == "together":
                    sent += [num_bytes for _, num_bytes in measured]
            bar.update()
        for end in ends:
            end.send(0)
    except EOFError as error:
        raise UserError(f"{engine}, {loss}: a process ended; what it said stands above") from error
    for process in processes:
        process.join()
    return Measured(engine, loss, num_parameters, rates, median(sent))


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def measured_table(results: Sequence[Measured]) -> list[str]:
    """Markdown lines: speeds, efficiencies as median (smallest to largest), bytes."""
    lines = [
        "| engine, loss | 1 process | 2 apart | 2 together | together / (2 x 1) | together / apart "
        "| bytes sent | by the formula |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for result in results:
        alone, apart, together = (result.rates[turn] for turn in TURNS)
        speeds = [f"{median(rates):.2f}" for rates in (alone, apart, together)]
        ratios = [
            [many / (times * few) for many, few in zip(together, below, strict=True)]
            for times, below in ((2, alone), (1, apart))
        ]
        shown = [f"{median(many):.3f} ({min(many):.3f} to {max(many):.3f})" for many in ratios]
        expected = volume(result.engine, result.num_parameters, 2)
        cells = [f"{result.engine}, {result.loss}", *speeds, *shown]
        cells += [f"{result.sent:,.0f}", f"{expected:,.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def paper_table(num_parameters: int, compute_seconds: float) -> list[str]:
    """Markdown lines: the formula for many GPUs, nothing of it measured."""
    lines = [
        "| GPUs | engine | MB sent per GPU and step | ms on the wire | efficiency at "
        f"{1000 * compute_seconds:.0f} ms of computing | ms of computing for 0.95 |",
        "| --: | --- | --: | --: | --: | --: |",
    ]
    for num_processes in (8, 64, 256):
        for engine in ENGINES:
            sent = volume(engine, num_parameters, num_processes)
            hops = ceil(4 * num_parameters / BUCKETS[engine]) * (num_processes - 1)
            hops *= {"DDP": 2, "ZeRO-2": 3}[engine]
            seconds = sent / (NVLINK if num_processes <= NODE else INFINIBAND) + hops * HOP
            efficiency = compute_seconds / (compute_seconds + seconds)
            lines.append(
                f"| {num_processes} | {engine} | {sent / 1e6:.0f} | {1000 * seconds:.1f} "
                f"| {efficiency:.3f} | {1000 * 19 * seconds:.0f} |"
            )
    return lines


def count_parameters() -> int:
    """Of the mask generator of configs/cityscapes.yaml."""
    with torch.device("meta"):
        network = make_mask_generator(load_config(["config=cityscapes"]))
    return sum(parameter.numel() for parameter in network.parameters())


def main(words: Sequence[str]) -> None:
    """Measure all, print the tables."""
    config = parse(ScalingConfig, words)
    load = os.getloadavg()[0]
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.manual_seed(0)
    cases = [(engine, loss) for engine in ENGINES for loss in LOSSES]
    with (
        tempfile.TemporaryDirectory(prefix="maskrestore-scaling-") as folder,
        tqdm(total=len(cases) * config.rounds, unit="round") as bar,
    ):
        generator = Path(folder) / "generator.pth"
        save_spade_generator(SPADEGenerator(NUM_CLASSES + 2, 8, 32, SIZE), generator)
        results = [measure(config, engine, loss, generator, bar) for engine, loss in cases]
    large = count_parameters()
    lines = [
        f"Samples per second; efficiency as the median of {config.rounds} rounds (smallest to "
        f"largest); bytes per step and process. {results[0].num_parameters:,} parameters, batch "
        f"{BATCH} of {SIZE[0]}x{SIZE[1]} per process. Load average before: {load:.1f} (more than "
        f"0 is other work), cores: {count_cores()}.",
        "",
        *measured_table(results),
        "",
        "**On paper, not measured**: the mask generator of configs/cityscapes.yaml, "
        f"{large:,} parameters.",
        "",
        *paper_table(large, config.compute_seconds),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if config.out is not None:
        write_atomically(config.out, text.encode())


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", ScalingConfig))
