"""Everything that a GPU has to answer, in one command of at most eight minutes:

python -m benchmarks.gpu
python -m benchmarks.gpu device=cpu size=64x128 large_size=64x128 width=4 hidden=8 \
    batch_size=2 steps=8 repeats=2          # a rehearsal

Facts of the device, correctness, the rows of docs/performance.md, the loader, variants: each a
process of its own that may fail alone. Every figure is in OUT/figures.json; the table comes last.
The same command again does only what is missing there, of this commit and these settings.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.facts import facts
from benchmarks.gpu.loader import loader
from benchmarks.gpu.precision import precision
from benchmarks.gpu.rows import rows
from benchmarks.gpu.runs import ROOT, runs
from benchmarks.gpu.settings import PARTS, Figure, GpuBenchmark
from benchmarks.gpu.variants import variants
from benchmarks.side_by_side import conditions
from maskrestore.config.cli import run_program
from maskrestore.config.settings import parse
from maskrestore.runs import provenance
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically

MEASURE: dict[str, Callable[[GpuBenchmark], Iterator[Figure]]] = {
    "facts": facts,
    "precision": precision,
    "runs": runs,
    "rows": rows,
    "loader": loader,
    "variants": variants,
}
LIMITS = {"facts": 40, "precision": 110, "runs": 150, "rows": 150, "loader": 60, "variants": 150}
"""Seconds of each part at most, times GpuBenchmark.patience."""
GRACE = 20.0
"""Seconds that what a part has started has to end."""
LEAST = 15.0
"""Seconds that must be left for a part to begin."""


def main(words: Sequence[str]) -> None:
    """Do one part in this process, or all that are missing."""
    config = parse(GpuBenchmark, words)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: there is no GPU here; device=cpu rehearses the program")
    config.out.mkdir(parents=True, exist_ok=True)
    if config.part is not None:
        figures: list[dict[str, Any]] = []
        for figure in MEASURE[config.part](config):  # whatever ends it, what was found is kept
            figures.append(asdict(figure))
            _put(config, config.part, figures=figures)
        return
    began = time.monotonic()
    for part in PARTS:
        if "seconds" in _kept(config).get(part, {}):
            print(f"{part}: is there already", flush=True)
            continue
        left = config.times * config.seconds - (time.monotonic() - began)
        if left < LEAST:
            _put(config, part, failed="no time was left")
            continue
        limit = min(left, config.times * LIMITS[part])
        print(f"{part}: at most {limit:.0f} s", flush=True)
        _run_part(config, part, words, limit)
    found = _kept(config)
    print(table(found))
    print(f"\n{conditions(config.device)}\nAll figures: {config.out / 'figures.json'}")
    failed = {part: found[part]["failed"] for part in PARTS if "failed" in found.get(part, {})}
    if failed:
        lines = [f"{part}: {reason}" for part, reason in failed.items()]
        raise UserError("not measured, the same command again tries it:\n" + "\n".join(lines))


def _run_part(config: GpuBenchmark, part: str, words: Sequence[str], limit: float) -> None:
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu", *words, f"part={part}"]
    log = config.out / f"{part}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
            end_all(process)
    seconds = time.monotonic() - began
    if status == 0:
        _put(config, part, seconds=round(seconds, 1))
    elif status is None:
        _put(config, part, failed=f"took longer than {limit:.0f} s ({log})")
    else:
        lines = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        _put(config, part, failed=f"status {status}: {lines[-1][:300]} ({log})")


def end_all(process: "subprocess.Popen[bytes]") -> None:
    """It and the runs that it has started: torchrun's are in sessions of their own, and it ends
    them where it is asked to end, but not where it is killed."""
    os.killpg(process.pid, signal.SIGTERM)
    patience = time.monotonic() + GRACE
    try:
        while time.monotonic() < patience:
            process.poll()  # ended, and not waited for, it would still be there
            os.killpg(process.pid, 0)
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # all have ended
        pass
    process.wait()


def _state(config: GpuBenchmark) -> dict[str, Any]:
    """What the figures are of: those of anything else are not taken for them."""
    settings = config.model_dump(mode="json", exclude={"part", "seconds", "patience", "out"})
    return {"commit": provenance.commit(), "settings": settings}


def _path(config: GpuBenchmark) -> Path:
    return config.out / "figures.json"


def _kept(config: GpuBenchmark) -> dict[str, Any]:
    path = _path(config)
    if not path.is_file():
        return {}
    kept: dict[str, Any] = json.loads(path.read_text())
    is_same = all(kept.get(name) == value for name, value in _state(config).items())
    return kept["parts"] if is_same else {}


def _put(config: GpuBenchmark, part: str, **facts: Any) -> None:
    parts = _kept(config)
    figures = parts.get(part, {}).get("figures", [])
    parts[part] = {"figures": figures, **facts}
    content = json.dumps({**_state(config), "parts": parts}, indent=1)
    write_atomically(_path(config), content.encode())


def table(parts: dict[str, Any]) -> str:
    """Markdown: what was found, part by part."""
    lines = ["| part | what | measured | goal |", "| --- | --- | --: | --: |"]
    for part in PARTS:
        kept = parts.get(part, {"failed": "not begun"})
        for figure in kept.get("figures", ()):
            value = figure["value"]
            told = f"{value:.4g}" if isinstance(value, float) else str(value)
            told = f"{told} {figure['unit']}".strip()
            lines.append(f"| {part} | {figure['what']} | {told} | {figure['goal']} |")
        if "failed" in kept:
            lines.append(f"| {part} | the rest | not measured: {kept['failed']} | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", GpuBenchmark))
