"""What might be faster: each against the step or the frozen pass as it is, in the same process."""

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.rows import step_words
from benchmarks.gpu.settings import Figure, GpuBenchmark, forget, timed
from benchmarks.labels import NUM_CLASSES
from benchmarks.our_step import OurStep, make_our_step
from benchmarks.random_weights import calibrated
from maskrestore.models import mask_generator, modulation
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import HalfPrecision, in_precision
from maskrestore.models.perceptual import make_features

Steps = dict[str, Callable[[GpuBenchmark], OurStep]]


def variants(config: GpuBenchmark) -> Iterator[Figure]:
    """Each variant's milliseconds, and how many times as fast it is as what stands there now."""
    kept, memory = _measured(config, _as_it_is)
    yield Figure("step as it is", kept, "ms")
    yield from _steps(config, STEPS, kept, memory)
    yield from _optimizers(config)
    yield from _real_features(config, kept)
    yield from _frozen(config)
    yield from _steps(config, COMPILED, kept, memory)  # which may take all that is left


def _steps(config: GpuBenchmark, steps: Steps, kept: float, memory: float) -> Iterator[Figure]:
    for name, make in steps.items():
        try:
            ms, held = _measured(config, make)
        except Exception as error:  # a compiler raises what it likes; the others go on
            yield Figure(f"step, {name}", _failed(error))
            continue
        yield Figure(f"step, {name}", ms, "ms")
        yield Figure(f"step, {name}: times as fast", kept / ms, "x")
        if memory:
            yield Figure(f"step, {name}: times less memory", memory / held, "x")


def _failed(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0][:100]}"


def _measured(config: GpuBenchmark, make: Callable[[GpuBenchmark], OurStep]) -> tuple[float, float]:
    benchmark, layout = torch.backends.cudnn.benchmark, mask_generator.GPU_LAYOUT
    fast_form = modulation.fast_form
    try:
        return timed(make(config).take, config.device, config.repeats)
    finally:
        torch.backends.cudnn.benchmark, mask_generator.GPU_LAYOUT = benchmark, layout
        modulation.fast_form = fast_form
        torch._dynamo.reset()
        gc.collect()
        forget(config.device)


def _as_it_is(config: GpuBenchmark, *more: str) -> OurStep:
    return make_our_step(step_words(config, config.batch_size, *more))


def _channels_first(config: GpuBenchmark) -> OurStep:
    mask_generator.GPU_LAYOUT = torch.contiguous_format
    step = _as_it_is(config)
    step.engines["mask_generator"].whole().to(memory_format=torch.contiguous_format)
    return step


def _without_kernels(config: GpuBenchmark) -> OurStep:
    modulation.fast_form = lambda x: None
    return _as_it_is(config)


def _benchmarked(config: GpuBenchmark) -> OurStep:
    torch.backends.cudnn.benchmark = True
    return _as_it_is(config)


def _compiled_trained(config: GpuBenchmark) -> OurStep:
    step = _as_it_is(config)
    step.objective.networks["mask_generator"].compile(backend=_compiler(config))
    return step


def _compiled_frozen(config: GpuBenchmark) -> OurStep:
    step = _as_it_is(config)
    for module in [m for net in step.objective.frozen.values() for m in net.modules()]:
        if isinstance(module, HalfPrecision):
            module.network.compile(backend=_compiler(config))
    return step


def _compiler(config: GpuBenchmark) -> str:
    """A rehearsal compiles no kernels: on a CPU they take minutes."""
    return "inductor" if config.device == "cuda" else "eager"


def _computed_twice(config: GpuBenchmark) -> OurStep:
    return _as_it_is(config, "distributed.activation_checkpointing=true")


def _ordered(config: GpuBenchmark) -> OurStep:
    return _as_it_is(config, "distributed.deterministic=true")


STEPS: Steps = {
    "trained side channels first, without Triton's kernels": _channels_first,
    "without Triton's kernels": _without_kernels,
    "cudnn.benchmark": _benchmarked,
    "activations computed twice": _computed_twice,
    "the same bits each time": _ordered,
}
COMPILED: Steps = {
    "trained network compiled": _compiled_trained,
    "frozen networks compiled": _compiled_frozen,
}


def _optimizers(config: GpuBenchmark) -> Iterator[Figure]:
    """Adam's step alone, fused (as it is) and by foreach."""
    network = _as_it_is(config).engines["mask_generator"].whole()
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    for name in ("fused", "foreach"):
        optimizer = torch.optim.Adam(
            parameters, lr=1e-4, fused=name == "fused", foreach=name == "foreach"
        )
        ms, _ = timed(optimizer.step, config.device, config.repeats)
        yield Figure(f"Adam, {name}", ms, "ms")
    forget(config.device)


def _real_features(config: GpuBenchmark, step: float) -> Iterator[Figure]:
    """What keeping the real images' features would save at most."""
    run = _as_it_is(config).config
    features = make_features(run.perceptual).to(config.device)
    network = in_precision(features, run.distributed.frozen_precision)
    image = torch.rand(config.batch_size, 3, *config.height_width, device=config.device)

    @torch.no_grad()
    def pass_forward() -> object:
        return network(image)

    ms, _ = timed(pass_forward, config.device, config.repeats)
    yield Figure("features of the real images", ms, "ms")
    yield Figure("features of the real images: share of a step", ms / step)
    forget(config.device)


def _frozen(config: GpuBenchmark) -> Iterator[Figure]:
    """The frozen pass as a CUDA graph: what the host's launches cost."""
    if config.device != "cuda":
        yield Figure("frozen pass as a CUDA graph", "only a GPU has them")
        return
    for batch_size in (2, config.batch_size):
        generator = calibrated(NUM_CLASSES, config.width, config.hidden, config.height_width)
        network = FrozenGenerator(generator).to(config.device).bfloat16()
        network = network.to(memory_format=torch.channels_last)
        shape = (batch_size, NUM_CLASSES + 2, *config.height_width)
        segmap = torch.rand(shape, device=config.device, dtype=torch.bfloat16, requires_grad=True)

        def replay(call: Any = network, x: Tensor = segmap) -> object:
            return torch.autograd.grad(call(x).float().abs().mean(), x)

        kept, _ = timed(replay, config.device, config.repeats)
        what = f"frozen pass, bf16, batch {batch_size}, as a CUDA graph"
        try:
            graphed: Any = torch.cuda.make_graphed_callables(network, (segmap,))
        except Exception as error:
            yield Figure(what, _failed(error))
            continue
        ms, _ = timed(partial(replay, graphed), config.device, config.repeats)
        yield Figure(what, ms, "ms")
        yield Figure(f"{what}: times as fast", kept / ms, "x")
        forget(config.device)
