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
ORDERED = ("distributed.deterministic=true",)
RUNS: dict[str, tuple[str, ...]] = {
    "ddp": (),
    "again": (),
    "ordered": ORDERED,
    "resumed": ORDERED,
    "fp16": ("distributed.precision=fp16",),
    "zero2-bf16": DEEPSPEED,
    "zero2-fp16": (*DEEPSPEED, "distributed.precision=fp16"),
    "fp32": PRECISE,
}
"""The last one is compared with the CPU."""
SECONDS = 90.0
"""Of one program at most, times GpuBenchmark.times."""
REHEARSED = ("ordered",)
"""On a CPU, and in one process that nobody launches: the tests know the others there."""


def runs(config: GpuBenchmark) -> Iterator[Figure]:
    """Train in each way, then compare what came of it."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    folder = config.small
    folder.mkdir(parents=True, exist_ok=True)
    draw_shards(folder / "shards", f"{SIZE[0]}x{SIZE[1]}", num_train=64, num_val=8)
    if not (folder / "generator.pth").is_file():
        save_spade_generator(calibrated(NUM_CLASSES, 8, 16, SIZE), folder / "generator.pth")
    wanted = [
        name
        for name in RUNS
        if name != "resumed"
        and (find_spec("deepspeed") or "zero" not in name)
        and (config.device == "cuda" or name in REHEARSED)
    ]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 3)) as pool:
        said = pool.map(lambda name: _train(config, name), wanted)
        for name, told in zip(wanted, said, strict=True):
            yield _outcome(folder / name, name, told)
    yield from _same_bits(config, folder)
    yield from _same_figures(config, folder, folder / wanted[-1])
    yield from _same_files(config, folder, folder / wanted[-1])


def draw_shards(folder: Path, size: str, num_train: int, num_val: int) -> None:
    """Street scenes of so many pixels, if they are not there. UserError if that fails."""
    if (folder / "manifest.json").is_file():
        return
    numbers = (f"num_train={num_train}", f"num_val={num_val}")
    words = ("source=streetscenes", f"size={size}", *numbers, f"out={folder}")
    # As a module: in a checkout that is not installed, a program in a folder cannot import.
    if told := run_program("-m", "shards.write", *words):
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
    # torchrun would ask who the host is, by a name that a machine without a network may not know.
    launcher = ("--standalone", "--local-addr=127.0.0.1", "--nproc_per_node=1")
    start = ("-m", "torch.distributed.run", *launcher) if config.device == "cuda" else ()
    return run_program(*start, "train.py", *_words(config, name), times=config.times)


def run_program(*command: str, times: float = 1.0) -> str:
    """What went wrong, or nothing. One that takes too long is asked to end, as torchrun ends its
    workers then."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, error = process.communicate(timeout=times * SECONDS)
    except subprocess.TimeoutExpired:
        process.terminate()
        said, error = process.communicate()
        print(f"{' '.join(command)}: too long\n{said}{error}")
        return f"took longer than {times * SECONDS:.0f} s"
    if not process.returncode:
        return ""
    print(f"{' '.join(command)}: status {process.returncode}\n{said}{error}")
    # Behind what the program says torchrun tells at length that it has ended.
    own = re.split(r"\n.*torch[./]distributed[./]elastic", error + said)[0]
    lines = own.strip().splitlines() or ["nothing was said"]
    return f"status {process.returncode}: {lines[-1].strip()[:200]}"


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
    """A run against its like, and one with distributed.deterministic against itself resumed from
    the middle."""
    one, other = _weights(folder / "ddp"), _weights(folder / "again")
    if one is not None and other is not None:
        yield Figure("two equal runs, bit for bit", torch.equal(one, other))  # not promised
        yield Figure("two equal runs: weights", difference(other, one), "relative error")
    first, resumed = _weights(folder / "ordered"), folder / "resumed"
    if first is None:
        return
    shutil.rmtree(resumed, ignore_errors=True)
    shutil.copytree(folder / "ordered", resumed)
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


def _same_figures(config: GpuBenchmark, folder: Path, run: Path) -> Iterator[Figure]:
    """The evaluation of the weights of a run there and on a CPU."""
    if not (run / "result.json").is_file():
        return
    shutil.rmtree(folder / "cpu", ignore_errors=True)
    shutil.copytree(run, folder / "cpu")
    words = (f"run={folder / 'cpu'}", "distributed.device=cpu")
    told = run_program("evaluate.py", *words, times=config.times)
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
        more = (f"device={device}", "precision=fp32")
        told = run_program("restore.py", *words, *more, times=config.times)
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
    output = folder / "exported"
    shutil.rmtree(output, ignore_errors=True)
    told = run_program("export.py", f"run={run}", f"output={output}", times=config.times)
    yield Figure("export.py", told or "done", goal="done")
    if not told:
        exported = torch.export.load(output / "model.pt2")
        example, _ = exported.example_inputs
        here = exported.module()(*example)
        moved = move_to_device_pass(exported, config.device).module()
        there = moved(*(part.to(config.device) for part in example)).cpu()
        error = difference(there, here)
        yield Figure("model.pt2 against the CPU's logits", error, "relative error", "< 0.001")
