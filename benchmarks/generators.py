"""What each frozen image generator takes at its official size, forward and back to its input:

python -m benchmarks.generators

Seconds and memory of one image, with activations kept and with activation_checkpointing; random
weights, which cost what trained ones cost.
"""

import sys
from collections.abc import Callable, Sequence

import torch
from pydantic import PositiveInt
from torch import nn
from tqdm import tqdm

from benchmarks.frozen import passes
from benchmarks.side_by_side import Side, conditions, typical
from maskrestore.config.cli import run_program
from maskrestore.config.settings import Section, parse
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.generators import oasis
from maskrestore.models.generators.ccfpse import CCFPSEGenerator
from maskrestore.models.generators.pix2pixhd import Pix2PixHDGlobal, Pix2PixHDLocal
from maskrestore.models.half_precision import in_precision
from maskrestore.models.spade import SPADEGenerator
from maskrestore.utils.system import keep_freed_memory, set_up_torch

SMALL, LARGE = (256, 512), (1024, 2048)


class GeneratorsBenchmark(Section):
    """For how long to measure."""

    pairs: PositiveInt = 2
    """Turns of each generator."""


def spade(checkpointing: bool) -> nn.Module:
    """36 channels, width 64."""
    return FrozenGenerator(SPADEGenerator(36, 64, 128, SMALL), checkpointing)


def oasis_(checkpointing: bool) -> nn.Module:
    """35 channels and the mean style."""
    generator = SPADEGenerator(99, 64, 128, SMALL, oasis.BLOCKS, style_size=64)
    return FrozenGenerator(generator, checkpointing, style=False)


def ccfpse(checkpointing: bool) -> nn.Module:
    """36 channels, width 64."""
    network = CCFPSEGenerator(36, 64, 64, 128, 256, SMALL, checkpointing)
    for name, parameter in network.named_parameters():
        if parameter.shape[1:] == (1, 1):  # scale and shift of a batch norm
            nn.init.constant_(parameter, float("scale" in name))
    return network


def pix2pixhd_512(checkpointing: bool) -> nn.Module:
    """vid2vid's, 35 channels."""
    return Pix2PixHDGlobal(35, 64, 3, 9, checkpointing)


def pix2pixhd_2048(checkpointing: bool) -> nn.Module:
    """The released one, 36 channels."""
    return Pix2PixHDLocal(36, 32, 4, 9, 3, checkpointing)


GENERATORS = {
    "SPADE": (spade, 36, SMALL),
    "OASIS": (oasis_, 35, SMALL),
    "CC-FPSE": (ccfpse, 36, SMALL),
    "pix2pixHD (global, vid2vid's 512)": (pix2pixhd_512, 35, SMALL),
    "pix2pixHD (local)": (pix2pixhd_2048, 36, LARGE),
}


def made(
    build: Callable[[bool], nn.Module], channels: int, size: tuple[int, int], again: bool
) -> Callable[[], object]:
    """A pass through a generator of random weights, in float32."""
    set_up_torch()
    torch.manual_seed(0)
    network = in_precision(build(again).requires_grad_(False), "fp32")
    keep_freed_memory("cpu")
    return passes(network, "cpu", (1, channels, *size))


def main(words: Sequence[str]) -> None:
    """Measure one after the other, print the table."""
    pairs = parse(GeneratorsBenchmark, words).pairs
    lines = [
        "| generator | size | seconds | memory | recomputed: seconds | memory |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for name, (build, channels, size) in tqdm(GENERATORS.items(), "generators"):
        cells = [name, f"{size[0]}x{size[1]}"]
        for again in (False, True):
            side = Side(made, build, channels, size, again)
            seconds, peak = typical(side, pairs)
            cells += [f"{seconds:.1f}", f"{peak / 1e9:.2f} GB"]
        lines.append("| " + " | ".join(cells) + " |")
    print("\n".join(lines))
    print(f"\n{conditions('cpu')} One image, float32; memory: the most that the process had.")


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", GeneratorsBenchmark))
