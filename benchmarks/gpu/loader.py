"""Whether a full step ever waits for its data: the loader alone, then feeding that step."""

import time
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.gpu.rows import step_words
from benchmarks.gpu.runs import draw_shards
from benchmarks.gpu.settings import Figure, GpuBenchmark
from benchmarks.our_step import make_our_step
from benchmarks.side_by_side import rate
from maskrestore.config.run import load_config
from maskrestore.data.loader import training_batches


def loader(config: GpuBenchmark) -> Iterator[Figure]:
    """Samples a second for several numbers of threads, and the share of a step spent on data."""
    shards = config.out / "shards"
    draw_shards(shards, config.size, num_train=96, num_val=4)
    number = 5 * max(2, config.repeats)  # far more than the loader decodes ahead
    words = [*step_words(config, config.batch_size), f"data.shards={shards}"]
    device = torch.device(config.device)
    next(iter(training_batches(load_config(words), 0, 0, 1))).to(device)  # which starts CUDA
    for threads in (1, 4, 8):
        run = load_config([*words, f"data.threads={threads}"])
        speed = rate(partial(training_batches, run, 0, 0, 1), number, config.batch_size)
        yield Figure(f"loader, {threads} threads", speed, "samples/s")
    step = make_our_step([*words, "data.threads=4"])
    batches = training_batches(step.config, 0, 0, 1)
    seconds = {}
    for fed in (False, True, False, True):  # the first turn of each warms up
        _wait(config.device)
        began = time.perf_counter()
        for _ in range(number):
            step.take(next(batches).to(device) if fed else None)
        _wait(config.device)
        seconds[fed] = (time.perf_counter() - began) / number
    batches.close()
    share = 1 - seconds[False] / seconds[True]
    yield Figure("step on a batch that lies there", 1000 * seconds[False], "ms")
    yield Figure("step fed from shards", 1000 * seconds[True], "ms")
    yield Figure("share of a step for loader and copies", share, "", "< 0.05")


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
