"""The SPADE form with few operations and little to remember for the backward pass.

Computes what models/spade.py does, and holds the weights the other way round: of each block's
SPADEs the first convolutions (same input, same size) are one, and each gamma and beta are one. The
trained mask generator and the frozen image generator are both built of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from maskrestore.models.spade import WIDTHS, blocks_of, conv3x3

SLOPE = 0.2
"""Of the leaky ReLUs."""


class FusedBlock(nn.Module):
    """SPADEResnetBlock (figure 11). `modulation_*`: [gamma + 1, beta] of a SPADE in one.

    frozen: the norms stand in the modulations, and x is left as it is (models/frozen.py). Behind a
    learned shortcut comes no activation, so that its beta and its 1x1 convolution are one, which
    conv_1 takes in as further input channels. Otherwise x is normalised by instance. style_size:
    further numbers that every pixel of the segmap has in common (OASIS).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        semantic_nc: int,
        hidden: int,
        frozen: bool,
        style_size: int = 0,
    ) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        self.frozen, self.learned_shortcut = frozen, in_channels != out_channels
        self.num_spades = 3 if self.learned_shortcut else 2
        further = hidden if frozen and self.learned_shortcut else 0
        self.shared = conv3x3(semantic_nc, self.num_spades * hidden)
        if style_size:
            self.of_style = nn.Conv2d(style_size, self.num_spades * hidden, 3, 1, 1, bias=False)
        self.modulation_0 = conv3x3(hidden, 2 * in_channels)
        self.modulation_1 = conv3x3(hidden, 2 * middle)
        self.conv_0 = conv3x3(in_channels, middle)
        self.conv_1 = conv3x3(middle + further, out_channels)
        if self.learned_shortcut:
            self.modulation_s = conv3x3(hidden, in_channels if frozen else 2 * in_channels)
            self.conv_s = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        if not frozen:
            with torch.no_grad():
                for name, bias in self.named_parameters():
                    if name.startswith("modulation") and name.endswith("bias"):
                        bias[: len(bias) // 2] += 1  # of the scale, which is 1 + gamma

    def forward(
        self, x: Tensor, segmap: Tensor, doubled: bool, style: Tensor | None = None
    ) -> Tensor:
        """x [B,in_channels,h,w] (half of that if doubled: every pixel of it then stands for 2x2),
        segmap [B,semantic_nc,h,w], style [B,style_size] -> [B,out_channels,h,w]."""
        shared = self.shared(segmap)
        if style is not None:
            shared = shared + everywhere(self.of_style, style, segmap.shape[2:])
        hidden = _SplitReLU.apply(shared, self.num_spades, not self.frozen)
        modulations = [self.modulation_0(hidden[0])]
        if self.learned_shortcut:
            modulations.append(self.modulation_s(hidden[2]))
        y, *rest = modulated(self._normalized(x), doubled, modulations)
        y = self.conv_0(y)
        [y] = modulated(self._normalized(y), False, [self.modulation_1(hidden[1])])
        if self.learned_shortcut:
            shortcut = self.conv_s(rest[0])
            if self.frozen:
                y = torch.cat([y, hidden[2]], 1)
        else:
            shortcut = double(x) if doubled else x
        result: Tensor = self.conv_1(y) + shortcut
        return result

    def _normalized(self, x: Tensor) -> Tensor:
        # nn.InstanceNorm2d refuses a 1x1 map, the latent one of a 64x64 image.
        if self.frozen:
            return x
        with torch.autocast(x.device.type, enabled=False):  # on CUDA it would be float32
            return torch.group_norm(x, x.shape[1], eps=1e-5)


class FusedTrunk(nn.Module):
    """A generator of SPADE's form (figure 12) without its last layer, of FusedBlocks.

    size: (height, width) of the output in pixels, multiples of 32; blocks: names of its blocks,
    and whether x is doubled before each (spade.blocks_of). checkpointing: compute each block's
    activations again in the backward pass rather than keep them (Chen et al. 2016): less memory,
    more time, the same gradient.
    """

    def __init__(
        self,
        semantic_nc: int,
        width: int,
        hidden: int,
        size: tuple[int, int],
        frozen: bool,
        checkpointing: bool = False,
        blocks: Mapping[str, bool] | None = None,
        style_size: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.checkpointing = size, checkpointing
        self.blocks = blocks_of(size) if blocks is None else dict(blocks)
        self.fc = conv3x3(semantic_nc, 16 * width)
        if style_size:
            self.of_style = nn.Conv2d(style_size, 16 * width, 3, 1, 1, bias=False)
        for name in self.blocks:
            inputs, outputs = (factor * width for factor in WIDTHS[name])
            block = FusedBlock(inputs, outputs, semantic_nc, hidden, frozen, style_size)
            self.add_module(name, block)

    def features(self, segmap: Tensor, style: Tensor | None = None) -> Tensor:
        """segmap [B,semantic_nc,H,W], style [B,style_size] -> [B,width,height,width of `size`],
        after a leaky ReLU."""
        # nearest takes the top left pixel of each block; the public weights were trained with that.
        if segmap.shape[2:] != self.size:
            segmap = F.interpolate(segmap, size=self.size, mode="nearest")
        pyramid = [segmap]
        for _ in range(sum(self.blocks.values())):
            pyramid.append(pyramid[-1][..., ::2, ::2])
        x = self.fc(pyramid[-1])
        if style is not None:
            x = x + everywhere(self.of_style, style, x.shape[2:])
        level = len(pyramid) - 1
        for name, doubled in self.blocks.items():
            level -= doubled
            block, again = self.get_submodule(name), self.checkpointing
            x = run_block(block, x, pyramid[level], doubled, style, again=again)
        return F.leaky_relu(x, SLOPE)


def run_block(block: nn.Module, *inputs: Any, again: bool) -> Tensor:
    """block(*inputs); again: whether the backward pass computes it again."""
    if again and torch.is_grad_enabled():
        computed: Tensor = checkpoint(block, *inputs, use_reentrant=False)
        return computed
    result: Tensor = block(*inputs)
    return result


def everywhere(convolution: nn.Module, style: Tensor, size: Sequence[int]) -> Tensor:
    """What a 3x3 convolution makes of a picture of `size` (height, width) that is style [B,k] at
    every pixel, with zeros around it: [B,C,*size]. Of so many pixels nine differ at most."""
    small = [min(length, 3) for length in size]
    few: Tensor = convolution(style[:, :, None, None].expand(-1, -1, *small))
    for dim, length in enumerate(size, 2):
        places = torch.arange(length, device=style.device).clamp(max=1)
        places[-1] = small[dim - 2] - 1
        few = few.index_select(dim, places)
    return few


def modulated(x: Tensor, doubled: bool, modulations: list[Tensor]) -> tuple[Tensor, ...]:
    """x * scale + shift for each modulation [scale, shift] [B,2C,h,w], or x * scale for one of
    [B,C,h,w]. A leaky ReLU follows the first.

    x [B,C,h,w], or half as high and wide if doubled. The results are of the modulations' dtype.
    """
    with torch.autocast(x.device.type, enabled=False):
        results: tuple[Tensor, ...] = _Modulated.apply(
            x.to(modulations[0].dtype), doubled, *modulations
        )
    return results


def double(x: Tensor) -> Tensor:
    """Each pixel becomes 2x2 equal ones."""
    with torch.autocast(x.device.type, enabled=False):
        return F.interpolate(x, scale_factor=2, mode="nearest")


class _Modulated(torch.autograd.Function):
    """Remembers x before it is doubled, and the modulations; nothing of the results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, doubled: bool, *modulations: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x, *modulations)
        ctx.doubled = doubled
        large = double(x) if doubled else x
        first, *rest = (_scale_and_shift(large, modulation) for modulation in modulations)
        return F.leaky_relu_(first, SLOPE), *rest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, *modulations = ctx.saved_tensors
        channels = x.shape[1]
        large = double(x) if ctx.doubled else x
        before = _scale_and_shift(large, modulations[0])
        first = torch.ops.aten.leaky_relu_backward(gradients[0], before, SLOPE, False)
        del before
        of_modulations = []
        of_x: Tensor | None = None
        for gradient, modulation in zip((first, *gradients[1:]), modulations, strict=True):
            of_modulations.append(_of_scale_and_shift(gradient, large, modulation))
            scale = modulation[:, :channels]
            of_x = gradient * scale if of_x is None else of_x.addcmul_(gradient, scale)
        if ctx.doubled and of_x is not None:
            of_x = F.avg_pool2d(of_x, 2, divisor_override=1)
        return of_x, None, *of_modulations


def _scale_and_shift(x: Tensor, modulation: Tensor) -> Tensor:
    channels = x.shape[1]
    if modulation.shape[1] == channels:
        return x * modulation
    return torch.addcmul(modulation[:, channels:], x, modulation[:, :channels])


def _of_scale_and_shift(gradient: Tensor, x: Tensor, modulation: Tensor) -> Tensor:
    """The modulation's gradient."""
    channels = x.shape[1]
    if torch.compiler.is_compiling():  # it knows no part as `out`, and puts these in one
        parts = [gradient * x, gradient][: modulation.shape[1] // channels]
        return torch.cat(parts, 1)
    result = torch.empty_like(modulation)
    torch.mul(gradient, x, out=result[:, :channels])
    if modulation.shape[1] > channels:
        result[:, channels:] = gradient
    return result


class _SplitReLU(torch.autograd.Function):
    """ReLU of [B,n*C,h,w] as n tensors. For the backward pass it keeps the results, which trained
    convolutions keep as well, or where there are none of those a byte for each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, keep_results: bool) -> Any:
        if x.is_contiguous():
            results = F.relu(x).chunk(count, 1)
        else:  # channels_last: parts of their own, or each convolution would copy its part
            results = tuple(F.relu(part) for part in x.chunk(count, 1))
        ctx.save_for_backward(*(results if keep_results else [r > 0 for r in results]))
        return results

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        of_x = torch.cat(gradients, 1)
        for part, kept in zip(of_x.chunk(len(gradients), 1), ctx.saved_tensors, strict=True):
            part.mul_(kept if kept.dtype == torch.bool else kept > 0)
        return of_x, None, None
