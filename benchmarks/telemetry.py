"""What telemetry costs a training step: python -m benchmarks.telemetry

Two figures for a large and for a very small step. "Side by side": steps with and without telemetry
take turns, the former with all that the loop does for it (marks, hooks, counters, a report every
ten steps) and scraped every two seconds; on a machine that does other things as well this ratio
says little. "Counted": the same calls without the step between them, and a scrape every two
seconds, added up and divided by the time of a step. Figures: docs/performance.md.
"""

import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from pydantic import PositiveInt
from torch import nn
from tqdm import tqdm

from benchmarks.labels import NUM_CLASSES
from benchmarks.side_by_side import conditions
from maskrestore.config.cli import run_program
from maskrestore.config.run import load_config
from maskrestore.config.settings import Section, parse
from maskrestore.data.loader import Batch
from maskrestore.distributed.engine import Engine
from maskrestore.distributed.processes import make_accelerator
from maskrestore.models.build import load_frozen_generator
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import save_spade_generator
from maskrestore.monitoring.health import Report
from maskrestore.monitoring.meter import Meter
from maskrestore.monitoring.targets import read_target
from maskrestore.monitoring.telemetry import Telemetry
from maskrestore.training.setup import make_engine, make_objective
from maskrestore.training.step import take_step
from maskrestore.utils.files import write_atomically

CASES = {
    "64x128, batch 4, CE+Lite0+L1": "data.size=64x128 loss=ce_vgg_l1 training.batch_size=4",
    "32x64, batch 1, CE, tiny network": "data.size=32x64 loss=ce training.batch_size=1 "
    "mask_generator.width=4 mask_generator.hidden=8",
}
REPORT_STEPS, SCRAPE_SECONDS = 10, 2.0


class TelemetryBenchmark(Section):
    """How long to measure."""

    pairs: PositiveInt = 12
    """Pairs of turns, of ten steps each."""
    out: Path | None = None
    """File for the table, beside printing it."""


class Bench:
    """A step of the loop's, with and without what telemetry adds to it."""

    def __init__(self, words: Sequence[str], folder: Path) -> None:
        config = load_config([*words, f"run={folder / 'run'}"])
        accelerator = make_accelerator(config, for_training=True)
        device = accelerator.device
        self._config = config
        self._objective = make_objective(config, load_frozen_generator(config, device), device)
        self._engines: dict[str, Engine] = {}
        self._meters = {active: Meter(device, active=active) for active in (True, False)}
        for phase in self._objective.phases():
            bare = self._objective.networks[phase.network]
            engine = make_engine(accelerator, config, bare, phase.betas, None, "the benchmark")
            self._engines[phase.network] = engine
            self._objective.networks[phase.network] = engine.network
            self._meters[True].attend(phase.network, bare)
        for name, network in self._objective.frozen.items():
            self._meters[True].attend(name, network)
        size, (height, width) = config.training.batch_size, config.data.height_width
        label_map = torch.randint(0, NUM_CLASSES, (size, height, width))
        image = torch.randint(0, 256, (size, 3, height, width), dtype=torch.uint8)
        self._batch = Batch(("",) * size, image, label_map, label_map, label_map)
        self.telemetry = Telemetry(config, 0, ["here"], device, 1)
        self._num_images = 0

    def turn(self, watched: bool) -> float:
        """Seconds of REPORT_STEPS steps, and of the report behind them."""
        meter = self._meters[watched]
        began = time.perf_counter()
        for _ in range(REPORT_STEPS):
            meter.begin()
            take_step(
                self._config, self._objective, self._engines, self._batch, 1, meter
            ).total.item()
            meter.end()
            if watched:
                self._tell_step()
        if watched:
            self._tell_report(meter)
        return time.perf_counter() - began

    def telling(self) -> float:
        """Seconds of what `turn(watched=True)` adds to a step, without the step."""
        meter = Meter(torch.device("cpu"))
        layers = {name: nn.Identity() for name in ("mask_generator", *self._objective.frozen)}
        for name, layer in layers.items():
            meter.attend(name, layer)
        began = time.perf_counter()
        for _ in range(REPORT_STEPS):
            meter.begin()
            for layer in layers.values():
                layer(None)
            with meter.backward("mask_generator"):
                pass
            meter.mark("optimizer")
            meter.mark("other")
            meter.mark("communication")
            meter.end()
            self._tell_step()
        self._tell_report(meter)
        return (time.perf_counter() - began) / REPORT_STEPS

    def _tell_step(self) -> None:
        self._num_images += self._config.training.batch_size
        self.telemetry.state("training")
        self.telemetry.step(self._num_images)

    def _tell_report(self, meter: Meter) -> None:
        measured = meter.read()
        terms = dict.fromkeys(self._config.terms, 1.0)
        report = Report(1.0, terms, {"mask_generator": 1.0}, [], None, "")
        ones = {"mask_generator": 1.0}
        usage = [measured.usage.tolist()]
        self.telemetry.report(report, measured, usage, ones, ones, ones)


def scrape(address: str, stop: threading.Event, seconds: list[float]) -> None:
    """Ask for the metrics every SCRAPE_SECONDS, and note how long the answers took."""
    while not (seconds and stop.wait(SCRAPE_SECONDS)):
        began = time.perf_counter()
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            answer.read()
        seconds.append(time.perf_counter() - began)


def measure(name: str, words: Sequence[str], pairs: int, folder: Path) -> str:
    """A row of the table."""
    bench = Bench(words, folder)
    stop = threading.Event()
    answers: list[float] = []
    ratios, steps = [], []
    with bench.telemetry as telemetry:
        telemetry.begin(0, 0, [], [])
        [target] = (folder / "targets").glob("*.json")
        address = read_target(target).address
        scraper = threading.Thread(target=scrape, args=(address, stop, answers))
        bench.turn(True)
        bench.turn(False)
        scraper.start()
        for number in tqdm(range(pairs), name):
            order = (True, False) if number % 2 else (False, True)
            seconds = {watched: bench.turn(watched) for watched in order}
            ratios.append(seconds[True] / seconds[False])
            steps.append(seconds[False] / REPORT_STEPS)
        stop.set()
        scraper.join()
        telling = [bench.telling() for _ in range(50)]
    step = median(steps)
    share = median(telling) / step + median(answers) / SCRAPE_SECONDS
    return (
        f"| {name} | {1000 * step:.1f} ms | {1000 * median(telling):.3f} ms "
        f"| {1000 * median(answers):.1f} ms | **{100 * share:.2f} %** "
        f"| {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |"
    )


def main(words: Sequence[str]) -> None:
    """Measure both cases, print the table."""
    config = parse(TelemetryBenchmark, words)
    torch.manual_seed(0)
    rows = []
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory(prefix="maskrestore-telemetry-") as text:
            folder = Path(text)
            own = [*case.split(), "perceptual.network=lite0", "distributed.device=cpu"]
            size = load_config(own).data.height_width
            generator = folder / "generator.pth"
            save_spade_generator(SPADEGenerator(NUM_CLASSES + 2, 8, 32, size), generator)
            own.append(f"generator.path={generator}")
            rows.append(measure(name, own, config.pairs, folder))
    lines = [
        "| step | time | telling, per step | a scrape | counted | side by side, with / without |",
        "| --- | --: | --: | --: | --: | --: |",
        *rows,
        "",
        f"Medians; side by side of {config.pairs} pairs of {REPORT_STEPS} steps (smallest to "
        f"largest). A report every {REPORT_STEPS} steps, a scrape every {SCRAPE_SECONDS:.0f} s. "
        f"{conditions('cpu')}",
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if config.out is not None:
        write_atomically(config.out, text.encode())


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", TelemetryBenchmark))
