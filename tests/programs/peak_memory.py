"""Peak memory of a training step on a GPU, without one:

export PYTHONPATH=tests/support
python -m null_gpu tests/programs/peak_memory.py                  # 8 images of 256x512
python -m null_gpu tests/programs/peak_memory.py batch_size=16    # settings: benchmarks.gpu's

What the allocator of the CUDA device that is not there (tests/support/null_gpu) holds at most:
every tensor has its size, none has values. What cuDNN takes for itself is not in it.
"""

import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import torch
from null_gpu.emulation import Allocation

from benchmarks import plain_step
from benchmarks.gpu.rows import step_words
from benchmarks.gpu.settings import GpuBenchmark
from benchmarks.our_step import make_our_step
from maskrestore.config.settings import parse
from maskrestore.models import fast_modulation, modulation


class NoKernels:
    """In the place of models/kernels.py: nothing is launched."""

    def __getattr__(self, name: str) -> Any:
        return self

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def peak(step: Callable[[], object]) -> float:
    """Gigabytes."""
    step()  # Adam's moments
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 1e9


def main(words: Sequence[str]) -> None:
    """A line for each form of the step."""
    fast_modulation.kernels = NoKernels()  # type: ignore[assignment]
    forms = {"plain form": None, "Triton's kernels": fast_modulation}
    with tempfile.TemporaryDirectory() as folder:
        config = parse(GpuBenchmark, [f"out={folder}", *words])
        config.networks()
        shape = (config.height_width, config.width, config.hidden)
        with Allocation():
            step = plain_step.make_step("cuda", config.batch_size, *shape, True)
            theirs = peak(step)
            print(f"plain script, bf16 autocast: {theirs:.2f} GB")
            del step
            for name, form in forms.items():
                modulation.fast_form = lambda x, form=form: form if x.is_cuda else None
                for twice in ("false", "true"):
                    gc.collect()  # the last one
                    torch.cuda.empty_cache()
                    more = f"distributed.activation_checkpointing={twice}"
                    our_step = make_our_step(step_words(config, config.batch_size, more))
                    mine = peak(our_step.take)
                    del our_step
                    remark = ", activations computed twice" if twice == "true" else ""
                    print(f"ours, {name}{remark}: {mine:.2f} GB, {theirs / mine:.2f}x less")


if __name__ == "__main__":
    main(sys.argv[1:])
