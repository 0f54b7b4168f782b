"""The rows of docs/performance.md: the frozen pass and the whole step, against plain scripts."""

import gc
from collections.abc import Callable, Iterator, Sequence

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import plain_step
from benchmarks.frozen import passes
from benchmarks.gpu.settings import Figure, GpuBenchmark, forget, timed
from benchmarks.labels import NUM_CLASSES
from benchmarks.our_step import make_our_step
from benchmarks.plain_spade import PlainGenerator
from benchmarks.random_weights import calibrated
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import in_precision
from maskrestore.monitoring.meter import peak_flops

IMAGES = 300_000
"""Of a row of table1 at the paper's size."""
TABLE1 = {"ce": 3, "ce_l1": 1, "ce_vgg_l1": 2}
"""How many rows of a task cost about what a step of that loss costs: ours is of the cross entropy
too, with the picture or without, and ce_vgg costs what ce_vgg_l1 does."""
CONVOLVING = ("conv", "gemm", "xmma", "cutlass", "sm90", "sm80", "wgrad", "dgrad", "fprop", "nvjet")
"""Parts of the names of kernels that convolve."""


def rows(config: GpuBenchmark) -> Iterator[Figure]:
    """Times, memory and what they are made of."""
    for batch_size in (config.batch_size, 2 * config.batch_size):
        yield from _frozen(config, batch_size)
        yield from _step(config, batch_size)
    yield from _profiled(config)


def step_words(config: GpuBenchmark, batch_size: int, *more: str) -> list[str]:
    """The settings of a step of the paper's loss, frozen networks in fp16 on a GPU."""
    generator, perceptual = config.networks()
    return [
        *("task=densify", "loss=ce_vgg_l1", f"distributed.device={config.device}"),
        "distributed.precision=bf16",
        f"distributed.frozen_precision={'fp16' if config.device == 'cuda' else 'bf16'}",
        *(f"data.size={config.size}", f"training.batch_size={batch_size}"),
        *(f"mask_generator.width={config.width}", f"mask_generator.hidden={config.hidden}"),
        *(f"generator.path={generator}", "perceptual.network=vgg19"),
        *(f"perceptual.weights={perceptual}", f"run={config.out / 'none'}"),
        *more,
    ]


def frozen_pass(config: GpuBenchmark, batch_size: int, kind: str) -> Callable[[], object]:
    """Forward and back to the input, in `kind`, or plain under bf16 autocast."""
    generator = calibrated(NUM_CLASSES, config.width, config.hidden, config.height_width)
    shape = (batch_size, NUM_CLASSES + 2, *config.height_width)
    if kind != "plain":
        network = in_precision(FrozenGenerator(generator).to(config.device), kind)
        return passes(network, config.device, shape)
    plain = PlainGenerator(NUM_CLASSES + 2, config.width, config.hidden, config.height_width)
    plain.load_state_dict(generator.state_dict())
    plain.to(config.device).eval().requires_grad_(False)

    def call(segmap: torch.Tensor) -> torch.Tensor:
        with torch.autocast(config.device, torch.bfloat16):
            image: torch.Tensor = plain(segmap)
        return image

    return passes(call, config.device, shape)


def _frozen(config: GpuBenchmark, batch_size: int) -> Iterator[Figure]:
    times, memory = {}, {}
    for kind in ("plain", "fp16", "bf16"):
        call = frozen_pass(config, batch_size, kind)
        times[kind], memory[kind] = timed(call, config.device, config.repeats)
        name = "plain, bf16 autocast" if kind == "plain" else f"ours, {kind}"
        yield Figure(f"frozen pass, batch {batch_size}, {name}", times[kind], "ms")
        del call
        forget(config.device)
    ratio = times["plain"] / times["fp16"]
    yield Figure(f"frozen pass, batch {batch_size}: times as fast", ratio, "x", "3")
    if memory["fp16"]:
        less = memory["plain"] / memory["fp16"]
        yield Figure(f"frozen pass, batch {batch_size}: times less memory", less, "x")


def _step(config: GpuBenchmark, batch_size: int) -> Iterator[Figure]:
    shape = (batch_size, config.height_width, config.width, config.hidden)
    plain = plain_step.make_step(config.device, *shape, True)
    theirs, their_memory = timed(plain, config.device, config.repeats)
    yield from _row(
        f"step, batch {batch_size}, plain, bf16 autocast", theirs, their_memory, batch_size
    )
    del plain
    gc.collect()
    forget(config.device)

    step = make_our_step(step_words(config, batch_size), is_measured=True)
    mine, my_memory = timed(step.take, config.device, config.repeats)
    yield from _row(f"step, batch {batch_size}, ours", mine, my_memory, batch_size)
    yield Figure(f"step, batch {batch_size}: times as fast", theirs / mine, "x", "2.5")
    if my_memory:
        less = their_memory / my_memory
        yield Figure(f"step, batch {batch_size}: times less memory", less, "x", "2")
    flops = step.meter.read().flops
    yield Figure(f"step, batch {batch_size}: arithmetic", flops / 1e12, "TFLOP")
    peak = peak_flops(torch.device(config.device), 0)
    if peak:
        share = flops / (mine / 1000) / peak
        yield Figure(f"step, batch {batch_size}: share of the peak (MFU)", share, "", "0.45")
    del step
    gc.collect()
    forget(config.device)
    if batch_size == config.batch_size:
        yield from _hours(config, mine)


def _row(what: str, ms: float, memory: float, batch_size: int) -> Iterator[Figure]:
    yield Figure(what, ms, "ms")
    yield Figure(f"{what}: images", 1000 * batch_size / ms, "/s")
    if memory:
        yield Figure(f"{what}: peak memory", memory, "GB")


def _profiled(config: GpuBenchmark) -> Iterator[Figure]:
    """Kernels of one step, and the share of those that convolve."""
    batch_size = config.batch_size
    if config.device != "cuda":
        yield Figure(f"step, batch {batch_size}: kernels", "only a GPU has them")
        return
    step = make_our_step(step_words(config, batch_size))
    timed(step.take, config.device, 1)  # warms up
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step.take()
        torch.cuda.synchronize()
    times: dict[str, float] = {}
    number = 0
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            times[event.name] = times.get(event.name, 0) + event.device_time
            number += 1
    total = sum(times.values()) or 1
    share = sum(t for n, t in times.items() if any(p in n.lower() for p in CONVOLVING)) / total
    yield Figure(f"step, batch {batch_size}: kernels", number)
    yield Figure(f"step, batch {batch_size}: share of convolutions", share)
    for name, time in _most(times, 8):
        yield Figure(f"step, batch {batch_size}: {name[:70]}", time / 1000, "ms")


def _most(times: dict[str, float], number: int) -> Sequence[tuple[str, float]]:
    return sorted(times.items(), key=lambda item: -item[1])[:number]


def _hours(config: GpuBenchmark, ce_vgg_l1: float) -> Iterator[Figure]:
    """What table1 takes at the paper's size, from the steps of its losses."""
    total = TABLE1["ce_vgg_l1"] * ce_vgg_l1
    for loss in ("ce", "ce_l1"):
        step = make_our_step(step_words(config, config.batch_size, f"loss={loss}"))
        ms, _ = timed(step.take, config.device, config.repeats)
        yield Figure(f"step of {loss}, batch {config.batch_size}, ours", ms, "ms")
        total += TABLE1[loss] * ms
        del step
        gc.collect()
        forget(config.device)
    steps = IMAGES / config.batch_size
    hours = 2 * total / 1000 * steps / 3600
    yield Figure(f"table1, {IMAGES} images a row, both tasks, estimated", hours, "GPU hours")
