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

from maskrestore.models.modulation import double, modulated, split_relu
from maskrestore.models.spade import SLOPE, WIDTHS, blocks_of, conv3x3


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
        hidden_0, hidden_1, *hidden_s = split_relu(shared, self.num_spades, not self.frozen)
        modulations = [self.modulation_0(hidden_0)]
        if self.learned_shortcut:
            modulations.append(self.modulation_s(hidden_s[0]))
        # What the backward pass does without goes at once: these maps are a block's largest.
        del shared, hidden_0
        y, *of_shortcut = modulated(x, doubled, modulations, not self.frozen)
        del modulations
        if self.learned_shortcut:
            shortcut = self.conv_s(of_shortcut[0])
        else:
            shortcut = double(x) if doubled else x
        del of_shortcut
        y = self.conv_0(y)
        [y] = modulated(y, False, [self.modulation_1(hidden_1)], not self.frozen)
        del hidden_1
        if self.frozen and self.learned_shortcut:
            y = torch.cat([y, hidden_s[0]], 1)
        del hidden_s
        result: Tensor = self.conv_1(y) + shortcut
        return result


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
