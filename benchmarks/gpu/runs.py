"""Small real runs, as users start them: nccl, resume, formats, DeepSpeed; the CPU beside them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.export.passes import move_to_device_pass

from benchmarks.gpu.settings import Figure, GpuBenchmark, difference
from benchmarks.labels import NUM_CLASSES
from benchmarks.random_weights import calibrated
from maskrestore.models.weights import load_weights, save_spade_generator
from maskrestore.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SIZE, BATCH = (64, 128), 8
PRECISE = ("distributed.precision=fp32", "distributed.frozen_precision=fp32")
DEEPSPEED = ("distributed.engine=deepspeed", "distributed.zero_stage=2")
RUNS: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "again": (),
    "fp16": ("distributed.precision=fp16",),
    "zero2-bf16": DEEPSPEED,
    "zero2-fp16": (*DEEPSPEED, "distributed.precision=fp16"),
    "fp32": PRECISE,
}
"""The last one is compared with the CPU."""
REHEARSED = ("ddp",)
"""On a CPU, and in one process that nobody launches: the tests know the others there."""


def runs(config: GpuBenchmark) -> Iterator[Figure]:
    """Train in each way, then compare what came of it."""
    folder = config.small
    folder.mkdir(parents=True, exist_ok=True)
    draw_shards(folder / "shards", f"{SIZE[0]}x{SIZE[1]}", num_train=64, num_val=8)
    if not (folder / "generator.pth").is_file():
        save_spade_generator(calibrated(NUM_CLASSES, 8, 16, SIZE), folder / "generator.pth")
    wanted = [
        name
        for name in RUNS
        if (find_spec("deepspeed") or "zero" not in name)
        and (config.device == "cuda" or name in REHEARSED)
    ]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4)) as pool:
        said = pool.map(lambda name: _train(config, name), wanted)
        for name, told in zip(wanted, said, strict=True):
            yield _outcome(folder / name, name, told)
    yield from _same_bits(config, folder)
    yield from _same_figures(folder, folder / wanted[-1])
    yield from _same_files(config, folder, folder / wanted[-1])


def draw_shards(folder: Path, size: str, num_train: int, num_val: int) -> None:
    """Street scenes of so many pixels, if they are not there. UserError if that fails."""
    if (folder / "manifest.json").is_file():
        return
    numbers = (f"num_train={num_train}", f"num_val={num_val}")
    words = ("source=streetscenes", f"size={size}", *numbers, f"out={folder}")
    # As a module: in a checkout that is not installed, a program in a folder cannot import.
    if told := _program("-m", "shards.write", *words):
        raise UserError(f"no shards in {folder}: {told}")


def _words(config: GpuBenchmark, name: str) -> list[str]:
    folder, images = config.small, config.steps * BATCH
    return [
        *("task=densify", "loss=ce_vgg_l1", f"data.size={SIZE[0]}x{SIZE[1]}"),
        *(f"data.shards={folder / 'shards'}", f"generator.path={folder / 'generator.pth'}"),
        *("mask_generator.width=8", "mask_generator.hidden=16"),
        *("perceptual.network=lite0", "evaluation.features=lite0", "evaluation.num_pictures=2"),
        *(f"training.num_images={images}", f"training.batch_size={BATCH}"),
        *(f"training.log_images={images // 4}", f"training.checkpoint_images={images // 4}"),
        *("training.keep_checkpoints=9", "telemetry.serve=false"),
        *(f"distributed.device={config.device}", "distributed.precision=bf16"),
        f"distributed.frozen_precision={'fp16' if config.device == 'cuda' else 'bf16'}",
        *RUNS.get(name, ()),
        f"run={folder / name}",
    ]


def _train(config: GpuBenchmark, name: str) -> str:
    """What went wrong with a run, or nothing."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1")
    start = launcher if config.device == "cuda" else ()
    return _program(*start, "train.py", *_words(config, name))


def _program(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)
    if not done.returncode:
        return ""
    print(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    # Behind what the program says torchrun tells at length that it has ended.
    own = re.split(r"\n.*torch[./]distributed[./]elastic", done.stderr + done.stdout)[0]
    lines = own.strip().splitlines() or ["nothing was said"]
    return f"status {done.returncode}: {lines[-1].strip()[:200]}"


def _outcome(run: Path, name: str, told: str) -> Figure:
    what = f"run {name}"
    if told:
        return Figure(what, told, goal="done")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    skipped = sum(line.get("skipped_steps", 0) for line in lines)
    last = [line["losses"] for line in lines if "losses" in line][-1]
    total = sum(last.values())
    return Figure(what, f"done, loss {total:.3f}, {skipped} steps without effect", goal="done")


def _weights(run: Path) -> torch.Tensor | None:
    path = run / "mask_generator.pth"
    if not path.is_file():
        return None
    return torch.cat([part.flatten() for part in load_weights(path).values()])


def _same_bits(config: GpuBenchmark, folder: Path) -> Iterator[Figure]:
    """A run against itself, and against itself resumed from the middle."""
    first, second = _weights(folder / "ddp"), _weights(folder / "again")
    if first is None:
        return
    if second is not None:
        yield Figure("two equal runs, bit for bit", torch.equal(first, second), goal="True")
        yield Figure("two equal runs: weights", difference(second, first), "relative error")
    resumed = folder / "resumed"
    shutil.rmtree(resumed, ignore_errors=True)
    shutil.copytree(folder / "ddp", resumed)
    for name in ("result.json", "mask_generator.pth"):
        (resumed / name).unlink()
    for checkpoint in (resumed / "checkpoints").iterdir():
        if checkpoint.name.isdigit() and int(checkpoint.name) > config.steps * BATCH // 2:
            shutil.rmtree(checkpoint)
    told = _train(config, "resumed")
    third = _weights(resumed)
    if told or third is None:
        yield Figure("resumed half-way", told or "no weights", goal="done")
        return
    yield Figure("resumed half-way, bit for bit", torch.equal(first, third), goal="True")
    yield Figure("resumed half-way: weights", difference(third, first), "relative error")


def _same_figures(folder: Path, run: Path) -> Iterator[Figure]:
    """The evaluation of the weights of a run there and on a CPU."""
    if not (run / "result.json").is_file():
        return
    shutil.rmtree(folder / "cpu", ignore_errors=True)
    shutil.copytree(run, folder / "cpu")
    told = _program("evaluate.py", f"run={folder / 'cpu'}", "distributed.device=cpu")
    if told:
        yield Figure("evaluation on the CPU", told, goal="done")
        return
    there, here = _metrics(run), _metrics(folder / "cpu")
    for name in ("accu", "miou19", "boundary_f3", "ece", "fd_lite0"):
        error = abs(there[name] - here[name]) / max(abs(here[name]), 1e-12)
        yield Figure(f"evaluation, {name} against the CPU's", error, "relative error", "< 0.001")


def _metrics(run: Path) -> Any:
    return json.loads((run / "result.json").read_text())["metrics"]


def _same_files(config: GpuBenchmark, folder: Path, run: Path) -> Iterator[Figure]:
    """What restore.py and the exported network of a run make of a mask there and on a CPU."""
    if not (run / "result.json").is_file():
        return
    masks = folder / "masks"
    masks.mkdir(exist_ok=True)
    torch.manual_seed(4)
    blocks = torch.randint(1, NUM_CLASSES, (4, 16)).repeat_interleave(16, 0).repeat_interleave(8, 1)
    blocks[:, ::3] = 0
    Image.fromarray(blocks.byte().numpy()).save(masks / "a.png")
    for device in dict.fromkeys((config.device, "cpu")):
        shutil.rmtree(folder / f"restored-{device}", ignore_errors=True)
        words = (f"checkpoint={run}", f"input={masks}", f"output={folder / f'restored-{device}'}")
        told = _program("restore.py", *words, f"device={device}", "precision=fp32")
        if told:
            yield Figure(f"restore.py on {device}", told, goal="done")
            return
    mine, other = (folder / f"restored-{device}" for device in (config.device, "cpu"))
    names = sorted(str(p.relative_to(other)) for p in other.rglob("*.png"))
    yield Figure("restore.py: files compared", len(names), goal="> 0")
    for name in names:  # in fp32 a number here and there is rounded otherwise
        there, here = (np.asarray(Image.open(place / name)) for place in (mine, other))
        share = float((there != here).mean())
        yield Figure(f"restore.py: {name}, numbers unlike the CPU's", share, "", "< 0.001")
    shutil.rmtree(folder / "exported", ignore_errors=True)
    told = _program("export.py", f"run={run}", f"output={folder / 'exported'}")
    yield Figure("export.py", told or "done", goal="done")
    if not told:
        program = torch.export.load(folder / "exported" / "model.pt2")
        example, _ = program.example_inputs
        here = program.module()(*example)
        moved = move_to_device_pass(program, config.device).module()
        there = moved(*(part.to(config.device) for part in example)).cpu()
        error = difference(there, here)
        yield Figure("model.pt2 against the CPU's logits", error, "relative error", "< 0.001")
