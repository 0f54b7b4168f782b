"""The CC-FPSE image generator, written from the paper, in a form for use alone.

Liu, Yin, Shao, Wang, Li, "Learning to Predict Layout-to-image Conditional Convolutions for Semantic
Image Synthesis", NeurIPS 2019 (section 3.1, figures 2 and 3). A pyramid of label features predicts,
for every pixel and channel, the 3x3 kernel of a depthwise convolution and a gate behind it.

Folded, exactly: batch norms behind convolutions and spectral norms go into the weights; the first
convolutions of a block's predictors, of one input, are one; the shortcut's shift and its 1x1
convolution are one. The norms in front of predicted kernels stay: their padding is 0 behind them.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.models.frozen import EPSILON, spectrally_normed, working_dtype
from maskrestore.models.fused import run_block
from maskrestore.models.modulation import double
from maskrestore.models.spade import SLOPE, WIDTHS, conv3x3

LEVELS = 7
"""Of the label pyramid, and blocks."""
Shapes = dict[str, tuple[int, ...]]


class CCFPSEGenerator(nn.Module):
    """channels [B,semantic_nc,H,W] and a style -> image; H and W 64 times the latent map.

    style_size: of the style; 0 where the network begins with the labels instead (no use_vae).
    """

    def __init__(
        self,
        semantic_nc: int,
        width: int,
        label_width: int,
        hidden: int,
        style_size: int,
        size: tuple[int, int],
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.checkpointing, self.style_size = checkpointing, style_size
        self.latent = (16 * width, size[0] // 64, size[1] // 64)
        rows = self.latent[0] * self.latent[1] * self.latent[2]
        self.fc = nn.Linear(style_size, rows) if style_size else conv3x3(semantic_nc, 16 * width)
        for level in range(1, LEVELS + 1):
            inputs = semantic_nc if level == 1 else label_width
            stride = 1 if level == 1 else 2
            self.add_module(f"labelenc{level}", nn.Conv2d(inputs, label_width, 3, stride, 1))
        for level in range(1, LEVELS):
            self.add_module(f"labellat{level}", nn.Conv2d(label_width, label_width, 1))
            self.add_module(f"labeldec{level}", conv3x3(label_width, label_width))
        for name, (inputs, outputs) in WIDTHS.items():
            block = Block(inputs * width, outputs * width, semantic_nc + label_width, hidden)
            self.add_module(name, block)
        self.conv_img = conv3x3(width, 3)

    def forward(self, segmap: Tensor, style: Tensor | None = None) -> Tensor:
        """float [B,semantic_nc,H,W], float [B,style_size] or None for 0 -> image [B,3,H,W] in
        [-1,1]."""
        if self.style_size:
            if style is None:
                style = segmap.new_zeros(len(segmap), self.style_size)
            x = self.fc(style).view(-1, *self.latent)
        else:
            x = self.fc(segmap[..., ::64, ::64])
        for number, (name, features) in enumerate(zip(WIDTHS, self._pyramid(segmap), strict=True)):
            shrink = 64 >> number
            seen = torch.cat([segmap[..., ::shrink, ::shrink], features], 1)
            x = double(x) if number else x
            x = run_block(self.get_submodule(name), x, seen, again=self.checkpointing)
        image: Tensor = torch.tanh(self.conv_img(_leaky(x)))
        return image

    def _pyramid(self, segmap: Tensor) -> list[Tensor]:
        """Label features at each block's size, the smallest first."""

        def unit(name: str, x: Tensor) -> Tensor:
            return _leaky(self.get_submodule(name)(x))

        encoded = [segmap]
        for level in range(1, LEVELS + 1):
            encoded.append(unit(f"labelenc{level}", encoded[-1]))
        features = [encoded[-1]]
        for level in range(1, LEVELS):
            side = unit(f"labellat{level}", encoded[LEVELS - level])
            features.append(unit(f"labeldec{level}", double(features[-1]) + side))
        return features


class Block(nn.Module):
    """Two predicted depthwise convolutions, each with a 1x1 convolution and a gate behind it."""

    def __init__(self, inputs: int, outputs: int, seen: int, hidden: int) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.learned_shortcut = inputs != outputs
        self.num_hidden = 5 if self.learned_shortcut else 4
        self.shared = conv3x3(seen, self.num_hidden * hidden)
        for number, channels, results in ((1, inputs, middle), (2, middle, outputs)):
            self.register_parameter(f"scale_{number}", nn.Parameter(torch.empty(channels, 1, 1)))
            self.register_parameter(f"shift_{number}", nn.Parameter(torch.empty(channels, 1, 1)))
            self.add_module(f"kernels_{number}", conv3x3(hidden, 9 * channels))
            self.add_module(f"gate_{number}", conv3x3(hidden, results))
            self.add_module(f"mix_{number}", nn.Conv2d(channels, results, 1))
        if self.learned_shortcut:
            self.scale_s = conv3x3(hidden, inputs)
            self.shift_s = conv3x3(hidden, outputs)
            self.conv_s = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """x [B,inputs,h,w], seen [B,labels and their features,h,w] -> [B,outputs,h,w]."""
        hidden = F.relu(self.shared(seen)).chunk(self.num_hidden, 1)
        y = x
        for number in (1, 2):
            of_kernels, of_gate = hidden[2 * number - 2 : 2 * number]
            scale, shift = (self.get_parameter(f"{kind}_{number}") for kind in ("scale", "shift"))
            kernels = self.get_submodule(f"kernels_{number}")(of_kernels)
            y = conditional_convolution(torch.addcmul(shift, y, scale), kernels)
            gate = torch.sigmoid(self.get_submodule(f"gate_{number}")(of_gate))
            y = _leaky(self.get_submodule(f"mix_{number}")(y) * gate)
        if self.learned_shortcut:
            x = self.conv_s(x * self.scale_s(hidden[4])) + self.shift_s(hidden[4])
        return y + x


def conditional_convolution(x: Tensor, kernels: Tensor) -> Tensor:
    """A 3x3 kernel of its own for each pixel of [B,C,H,W], with zeros around it: [B,C,H,W].

    kernels [B,9*C,H,W]: C channels for the upper left neighbour, then for the upper one, ...; the
    sum is float32 for half precision. Nothing but x and kernels is kept for the backward pass.
    """
    result: Tensor = _ConditionalConvolution.apply(x, kernels)
    return result


class _ConditionalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor) -> Tensor:
        ctx.save_for_backward(x, kernels)
        wide = torch.promote_types(x.dtype, torch.float32)
        total = torch.zeros_like(x, dtype=wide)
        for part, neighbour in zip(kernels.chunk(9, 1), _neighbours(x), strict=True):
            total.addcmul_(part, neighbour)
        return total.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, kernels = ctx.saved_tensors
        [gradient] = gradients
        of_kernels = torch.empty_like(kernels)
        for part, neighbour in zip(of_kernels.chunk(9, 1), _neighbours(x), strict=True):
            torch.mul(gradient, neighbour, out=part)
        height, width = x.shape[2:]
        wide = torch.promote_types(x.dtype, torch.float32)
        of_x = F.pad(torch.zeros_like(x, dtype=wide), (1, 1, 1, 1))
        for number, part in enumerate(kernels.chunk(9, 1)):
            down, right = divmod(number, 3)
            of_x[..., down : down + height, right : right + width].addcmul_(part, gradient)
        return of_x[..., 1:-1, 1:-1].to(x.dtype), of_kernels


def _neighbours(x: Tensor) -> list[Tensor]:
    """Nine views of x: each pixel's upper left neighbour first, the lower right one last."""
    padded, (height, width) = F.pad(x, (1, 1, 1, 1)), x.shape[2:]
    return [padded[..., i : i + height, j : j + width] for i in range(3) for j in range(3)]


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


def layout(
    semantic_nc: int, width: int, label_width: int, hidden: int, style_size: int, latent: int
) -> Shapes:
    """Names and shapes of all tensors of an official file, those that nothing reads too; latent:
    pixels of the latent map."""
    shapes: Shapes = {"fc.weight": (16 * width, semantic_nc, 3, 3), "fc.bias": (16 * width,)}
    if style_size:
        rows = 16 * width * latent
        shapes = {"fc.weight": (rows, style_size), "fc.bias": (rows,)}

    def norm(name: str, channels: int, affine: bool = True) -> None:
        kinds = ("weight", "bias") if affine else ()
        for kind in (*kinds, "running_mean", "running_var"):
            shapes[f"{name}.{kind}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def spectral(name: str, outputs: int, inputs: int, kernel: int) -> None:
        shapes[f"{name}.weight_orig"] = (outputs, inputs, kernel, kernel)
        shapes[f"{name}.weight_u"] = (outputs,)
        shapes[f"{name}.weight_v"] = (inputs * kernel**2,)

    def convolution(name: str, outputs: int, inputs: int, kernel: int = 3) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        shapes[f"{name}.bias"] = (outputs,)

    for unit in units():
        inputs = semantic_nc if unit == "labelenc1" else label_width
        spectral(f"{unit}.0.0", label_width, inputs, 1 if unit.startswith("labellat") else 3)
        norm(f"{unit}.0.1", label_width)
    for name, factors in WIDTHS.items():
        inputs, outputs = (factor * width for factor in factors)
        middle = min(inputs, outputs)
        results = {"weights1": 9 * inputs, "weights2": 9 * outputs}
        for predictor, channels in (
            results | {"se_weights1": middle, "se_weights2": outputs}
        ).items():
            convolution(f"{name}.gen_{predictor}.0", hidden, semantic_nc + label_width)
            convolution(f"{name}.gen_{predictor}.2", channels, hidden)
        convolution(f"{name}.conv_1", middle, inputs, 1)
        convolution(f"{name}.conv_3", outputs, middle, 1)
        norms = {"norm_1": inputs, "norm_2": middle}
        norms |= {"norm_0": middle, "conv_0.norm_layer": inputs, "conv_2.norm_layer": middle}
        for kind, channels in norms.items():
            norm(f"{name}.{kind}", channels)
        if inputs != outputs:
            spectral(f"{name}.conv_s", outputs, inputs, 1)
            norm(f"{name}.norm_s.param_free_norm", inputs, affine=False)
            convolution(f"{name}.norm_s.mlp_shared.0", hidden, semantic_nc + label_width)
            convolution(f"{name}.norm_s.mlp_gamma", inputs, hidden)
            convolution(f"{name}.norm_s.mlp_beta", inputs, hidden)
    convolution("conv_img", 3, width)
    return shapes


def units() -> list[str]:
    """The label pyramid's convolutions."""
    numbers = {"labelenc": LEVELS, "labellat": LEVELS - 1, "labeldec": LEVELS - 1}
    return [f"{kind}{n}" for kind, count in numbers.items() for n in range(1, count + 1)]


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CCFPSEGenerator's state of a file's."""
    dtype = working_dtype(state)
    state = {name: tensor.double() for name, tensor in state.items()}
    result = {name: state[name] for name in state if name.startswith(("fc.", "conv_img."))}
    for unit in units():
        scale, shift = _affine(state, f"{unit}.0.1")
        weight = spectrally_normed(state, f"{unit}.0.0")
        result[f"{unit}.weight"] = weight * scale[:, None, None, None]
        result[f"{unit}.bias"] = shift
    for name in WIDTHS:
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        result |= {f"{name}.{k}": v for k, v in _folded_block(own).items()}
    return {name: tensor.to(dtype) for name, tensor in result.items()}


def _folded_block(state: dict[str, Tensor]) -> dict[str, Tensor]:
    firsts = [f"gen_{kind}weights{number}.0" for number in (1, 2) for kind in ("", "se_")]
    learned_shortcut = "conv_s.weight_orig" in state
    firsts += ["norm_s.mlp_shared.0"] if learned_shortcut else []
    result = {}
    for kind in ("weight", "bias"):
        result[f"shared.{kind}"] = torch.cat([state[f"{first}.{kind}"] for first in firsts])
        for number, mix in ((1, "conv_1"), (2, "conv_3")):
            kernels = state[f"gen_weights{number}.2.{kind}"]  # nine of a channel, then the next
            by_neighbour = kernels.unflatten(0, (-1, 9)).transpose(0, 1).flatten(0, 1)
            result[f"kernels_{number}.{kind}"] = by_neighbour
            result[f"gate_{number}.{kind}"] = state[f"gen_se_weights{number}.2.{kind}"]
            result[f"mix_{number}.{kind}"] = state[f"{mix}.{kind}"]
    for number in (1, 2):
        for kind, values in zip(("scale", "shift"), _affine(state, f"norm_{number}"), strict=True):
            result[f"{kind}_{number}"] = values[:, None, None]
    if learned_shortcut:
        scale, shift = _affine(state, "norm_s.param_free_norm")
        mixing = spectrally_normed(state, "conv_s")
        for kind, one in (("weight", 0.0), ("bias", 1.0)):
            gamma = (state[f"norm_s.mlp_gamma.{kind}"] + one).transpose(0, -1)  # 1 + gamma
            beta = state[f"norm_s.mlp_beta.{kind}"] + (gamma * shift).transpose(0, -1)
            result[f"scale_s.{kind}"] = (gamma * scale).transpose(0, -1)
            result[f"shift_s.{kind}"] = torch.tensordot(mixing[:, :, 0, 0], beta, 1)
        result["conv_s.weight"] = mixing
    return result


def _affine(state: Mapping[str, Tensor], norm: str) -> tuple[Tensor, Tensor]:
    """Scale and shift that a batch norm in evaluation is."""
    scale = (state[f"{norm}.running_var"] + EPSILON).rsqrt()
    mean = state[f"{norm}.running_mean"]
    if f"{norm}.weight" not in state:
        return scale, -mean * scale
    scale = scale * state[f"{norm}.weight"]
    return scale, state[f"{norm}.bias"] - mean * scale
