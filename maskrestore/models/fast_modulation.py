"""What stands between the convolutions of the SPADE form, in as few passes over memory as it takes.

The same functions as in models/modulation.py, by the kernels of models/kernels.py, for maps that
are channels_last (others are copied).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from maskrestore.models import kernels
from maskrestore.models.spade import EPSILON, SLOPE

TILE = 1024
"""Elements of each tensor that a program has at a time: in half precision one load of 16 bytes for
each of its 128 threads."""
MOST_CHANNELS = 64
"""Of a tile: 128 bytes in half precision, a line of the cache."""
MOST_CHUNKS = 256
"""Programs that share an image's sums over its pixels."""

OPTIONS = {"enable_fp_fusion": True}
"""Of the compiler; it asks for a word on this one."""


def modulated(
    x: Tensor, doubled: bool, modulations: Sequence[Tensor], normalized: bool
) -> tuple[Tensor, ...]:
    """As modulation.plain_modulated. For the backward pass it keeps x, the mean and the deviation
    of its channels, and the modulations: neither the normalised nor the doubled x."""
    parts = [_channels_last(modulation) for modulation in modulations]
    with torch.cuda.device_of(x):  # where Triton starts kernels; the backward pass sees to it
        results: tuple[Tensor, ...] = _Modulated.apply(
            _channels_last(x), doubled, normalized, *parts
        )
    return results


def split_relu(x: Tensor, count: int, keep_results: bool) -> tuple[Tensor, ...]:
    """As modulation.plain_split_relu. For the backward pass it keeps the results, or a bit for
    each number of them."""
    with torch.cuda.device_of(x):
        results: tuple[Tensor, ...] = _SplitReLU.apply(_channels_last(x), count, keep_results)
    return results


class _Modulated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, doubled: bool, normalized: bool, *modulations: Tensor
    ) -> tuple[Tensor, ...]:
        tiles = _Tiles(x)
        moments = _moments(x, tiles) if normalized else None
        ctx.save_for_backward(x, moments, *modulations)
        ctx.doubled = doubled
        results = [_like(modulation, x.shape[1]) for modulation in modulations]
        for number, (modulation, result) in enumerate(zip(modulations, results, strict=True)):
            kernels.modulate[tiles.grid](
                *(x, moments, modulation, result, *tiles.sizes),
                **_kind(x, moments, modulation, doubled, number),
                **tiles.blocks,
            )
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, moments, *modulations = ctx.saved_tensors
        tiles = _Tiles(x)
        pixels, _, channels = tiles.sizes
        chunk = tiles.blocks["block_pixels"] if moments is None else tiles.chunk
        shape = (2, len(x), _ceil(pixels, chunk), channels)
        sums = None if moments is None else moments.new_empty(shape)
        of_x = torch.empty_like(x)
        of_modulations = [torch.empty_like(modulation) for modulation in modulations]
        for number, modulation in enumerate(modulations):
            gradient = _channels_last(gradients[number])
            kernels.modulate_backward[(_ceil(pixels, chunk), *tiles.grid[1:])](
                *(x, moments, modulation, gradient, of_modulations[number], of_x),
                *(sums, *tiles.sizes, chunk),
                **_kind(x, moments, modulation, ctx.doubled, number),
                accumulates=number > 0,
                adds_up=sums is not None and number == len(modulations) - 1,
                **tiles.blocks,
            )
        if sums is not None:
            tensors = (x, moments, sums.sum(2), of_x)
            kernels.normalize_backward[tiles.grid](*tensors, pixels, channels, **tiles.blocks)
        return of_x, None, None, *of_modulations


class _SplitReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, keep_results: bool) -> tuple[Tensor, ...]:
        batch, all_channels, height, width = x.shape
        rows, channels = batch * height * width, all_channels // count
        # Each in memory of its own, which goes with it.
        results = tuple(_like(x, channels) for _ in range(count))
        bits = None
        if not keep_results:
            shape = (count, rows, _ceil(channels, 8))
            bits = torch.empty(shape, dtype=torch.uint8, device=x.device)
        ctx.save_for_backward(*(results if bits is None else bits))
        grid, blocks = _grid(rows, channels)
        for number, result in enumerate(results):
            kernels.split_relu[(*grid, 1)](
                *(x, result, None if bits is None else bits[number], rows, channels),
                *(number, count),
                packed=bits is not None,
                **blocks,
            )
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        batch, channels, height, width = gradients[0].shape
        rows, count = batch * height * width, len(gradients)
        of_x = _like(gradients[0], count * channels)
        grid, blocks = _grid(rows, channels)
        for number, (gradient, kept) in enumerate(zip(gradients, ctx.saved_tensors, strict=True)):
            kernels.split_relu_backward[(*grid, 1)](
                *(_channels_last(gradient), kept, of_x, rows, channels, number, count),
                packed=kept.dtype == torch.uint8,
                **blocks,
            )
        return of_x, None, None


class _Tiles:
    """How a map is shared out."""

    def __init__(self, x: Tensor) -> None:
        batch, channels, height, width = x.shape
        self.sizes = (height * width, width, channels)
        grid, self.blocks = _grid(height * width, channels)
        self.grid = (*grid, batch)

    @property
    def chunk(self) -> int:
        """How many pixels a program adds up."""
        tiles = self.grid[0]
        return _ceil(tiles, min(tiles, MOST_CHUNKS)) * self.blocks["block_pixels"]


def _grid(pixels: int, channels: int) -> tuple[tuple[int, int], dict[str, int]]:
    block_channels = min(max(_power_of_2(channels), 8), MOST_CHANNELS)
    block_pixels = TILE // block_channels
    grid = _ceil(pixels, block_pixels), _ceil(channels, block_channels)
    return grid, {"block_pixels": block_pixels, "block_channels": block_channels, **OPTIONS}


def _kind(
    x: Tensor, moments: Tensor | None, modulation: Tensor, doubled: bool, number: int
) -> dict[str, Any]:
    return {
        "normalized": moments is not None,
        "doubled": doubled,
        "shifted": modulation.shape[1] > x.shape[1],
        "slope": 1.0 if number else SLOPE,
    }


def _moments(x: Tensor, tiles: _Tiles) -> Tensor:
    """Mean of each channel of each image, and 1 / its standard deviation: float32 [2,B,C]."""
    pixels, _, channels = tiles.sizes
    num_chunks = _ceil(pixels, tiles.chunk)
    shape = (2, len(x), num_chunks, channels)
    parts = torch.empty(shape, dtype=torch.float32, device=x.device)
    moments = torch.empty(2, len(x), channels, dtype=torch.float32, device=x.device)
    sizes = (pixels, channels, tiles.chunk)
    kernels.find_moments[(num_chunks, *tiles.grid[1:])](x, parts, *sizes, **tiles.blocks)
    block_channels = 16
    kernels.join_moments[(1, _ceil(channels, block_channels), len(x))](
        *(parts, moments, *sizes, num_chunks, EPSILON),
        block_chunks=_power_of_2(num_chunks),
        block_channels=block_channels,
        **OPTIONS,
    )
    return moments


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _like(x: Tensor, channels: int) -> Tensor:
    shape = (len(x), channels, *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _ceil(number: int, size: int) -> int:
    return -(-number // size)


def _power_of_2(number: int) -> int:
    """The next one from number on."""
    return 1 << (number - 1).bit_length()
