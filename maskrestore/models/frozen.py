"""Networks that are used and never trained, and the image generator's fast form."""

import functools
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.models.fused import FusedTrunk
from maskrestore.models.spade import SPADEGenerator, conv3x3

EPSILON = 1e-5
"""Of all batch norms."""


class Frozen(nn.Module):
    """A module whose parameters and buffers never change, inside whatever trains around it.

    Gradients still flow through it to its input: only its parameters are cut off, so calls must
    not stand under torch.no_grad where that gradient is wanted.
    """

    def freeze(self) -> None:
        """Call at the end of __init__. Convolutions forget their inputs from here on."""
        self.requires_grad_(False)
        self.train()
        for module in self.modules():
            if type(module) is nn.Conv2d and module.padding_mode == "zeros":
                module.__class__ = FrozenConv2d

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: `parent.train()` must not wake batch statistics up."""
        return super().train(False)


class FrozenConv2d(nn.Conv2d):
    """A convolution whose weights get no gradient, and that keeps no input for one.

    PyTorch's remembers its input whatever is asked of it; the gradient to the input needs the
    weights alone, so that in a row of frozen layers all that stands between them can go.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B,in_channels,H,W] -> [B,out_channels,h,w]."""
        if not (torch.is_grad_enabled() and input.requires_grad):
            return super().forward(input)
        if torch.is_autocast_enabled(input.device.type):  # it would choose the formats in between
            return super().forward(input)
        places = (self.stride, self.padding, self.dilation, self.groups)
        result: Tensor = _FrozenConvolution.apply(input, self.weight, self.bias, *places)
        return result


class _FrozenConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *places: Any) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.places = x.shape, places
        return torch.conv2d(x, weight, bias, *places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        [weight], (stride, padding, dilation, groups) = ctx.saved_tensors, ctx.places
        if gradients[0].is_cuda:
            # cuDNN's backward pass would lay the gradient out as the input, which is not there any
            # more: twice it is copied. The transposed convolution is the same, and asks for none.
            lengths = zip(ctx.size[2:], gradients[0].shape[2:], weight.shape[2:], strict=True)
            places = zip(lengths, stride, padding, dilation, strict=True)
            left = [n - (m - 1) * s + 2 * p - d * (k - 1) - 1 for (n, m, k), s, p, d in places]
            settings = (stride, padding, left, groups, dilation)
            of_x = F.conv_transpose2d(gradients[0], weight, None, *settings)
        else:  # bit for bit PyTorch's own; of the input only its size is wanted
            nothing = gradients[0].new_empty(1).expand(ctx.size)
            of_x, _, _ = torch.ops.aten.convolution_backward(
                *(gradients[0], nothing, weight, None, stride, padding, dilation, False, [0, 0]),
                *(groups, [True, False, False]),
            )
        return of_x, *[None] * 6


class FrozenGenerator(Frozen):
    """Computes what `generator.eval()` does, with fewer operations, and shares no memory with it.

    Exact by algebra: spectral norm is divided out once. The running statistics of batch norm go
    into the gamma and beta convolutions, which become one: with mean m and standard deviation s,
    (x - m) / s * (1 + gamma) + beta = x * scale + shift, where scale = (1 + gamma) / s and
    shift = beta - m * scale; gamma and beta being convolutions, 1, s and m go into their weights
    and biases. A style is the same at every pixel: its part of each convolution is computed for
    nine of them. Without one (style=False) it is 0, and that part is left out.
    """

    def __init__(
        self, generator: SPADEGenerator, checkpointing: bool = False, style: bool = True
    ) -> None:
        super().__init__()
        with torch.device("meta"):  # no memory, and no random numbers drawn
            self.trunk = FusedTrunk(
                generator.semantic_nc - generator.style_size,
                generator.width,
                generator.hidden,
                generator.size,
                True,
                checkpointing,
                generator.blocks,
                generator.style_size if style else 0,
            )
            self.conv_img = conv3x3(generator.width, 3)
        self.load_state_dict(_folded(generator, style), assign=True)
        self.freeze()

    def forward(self, segmap: Tensor, style: Tensor | None = None) -> Tensor:
        """segmap float [B,semantic_nc,H,W], style [B,style_size] or None -> image
        [B,3,height,width] in [-1,1]."""
        image: Tensor = torch.tanh(self.conv_img(self.trunk.features(segmap, style)))
        return image


def _folded(generator: SPADEGenerator, style: bool) -> dict[str, Tensor]:
    """FrozenGenerator's state, in the generator's format."""
    state = {name: tensor.double() for name, tensor in generator.state_dict().items()}
    folded = {f"trunk.fc.{kind}": state[f"fc.{kind}"] for kind in ("weight", "bias")}
    for name in generator.blocks:
        own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
        folded |= {f"trunk.{name}.{k}": v for k, v in _folded_block(own).items()}
    size = generator.style_size  # its channels come first
    for name in [key for key in folded if size and key.endswith(("fc.weight", "shared.weight"))]:
        of_style, folded[name] = folded[name].split([size, folded[name].shape[1] - size], 1)
        if style:
            folded[f"{name.rsplit('.', 2)[0]}.of_style.weight"] = of_style
    folded |= {name: state[name] for name in ("conv_img.weight", "conv_img.bias")}
    dtype = working_dtype(generator.state_dict())
    return {name: tensor.to(dtype) for name, tensor in folded.items()}


def working_dtype(state: Mapping[str, Tensor]) -> torch.dtype:
    """The format for the weights of a file: float32, or what is finer there."""
    floats = (tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    return functools.reduce(torch.promote_types, floats, torch.float32)


def _folded_block(state: dict[str, Tensor]) -> dict[str, Tensor]:
    folded: dict[str, Tensor] = {}
    ends = "01s" if "conv_s.weight_orig" in state else "01"
    for end in ends:
        conv = f"conv_{end}"
        folded[f"{conv}.weight"] = spectrally_normed(state, conv)
        if end != "s":
            folded[f"{conv}.bias"] = state[f"{conv}.bias"]
    for kind in ("weight", "bias"):
        parts = [state[f"norm_{end}.mlp_shared.0.{kind}"] for end in ends]
        folded[f"shared.{kind}"] = torch.cat(parts)
    for end in ends:
        own = {k.removeprefix(f"norm_{end}."): v for k, v in state.items() if f"norm_{end}." in k}
        mean = own["param_free_norm.running_mean"]
        inverse = (own["param_free_norm.running_var"] + EPSILON).rsqrt()
        scale = [own["mlp_gamma.weight"] * inverse[:, None, None, None]]
        scale.append((1 + own["mlp_gamma.bias"]) * inverse)
        shift = [own["mlp_beta.weight"] - mean[:, None, None, None] * scale[0]]
        shift.append(own["mlp_beta.bias"] - mean * scale[1])
        if end == "s":  # conv_s(x * scale + shift) = conv_s(x * scale) + a part of conv_1
            mixing = folded["conv_s.weight"][:, :, 0, 0]
            weight, bias = (torch.tensordot(mixing, part, 1) for part in shift)
            folded["conv_1.weight"] = torch.cat([folded["conv_1.weight"], weight], 1)
            folded["conv_1.bias"] = folded["conv_1.bias"] + bias
            shift = [part[:0] for part in shift]
        for kind, a, b in zip(("weight", "bias"), scale, shift, strict=True):
            folded[f"modulation_{end}.{kind}"] = torch.cat([a, b])
    return folded


def spectrally_normed(state: dict[str, Tensor], conv: str) -> Tensor:
    """weight_orig / sigma of a convolution, with the power iteration's vectors as they are."""
    weight, u, v = (state[f"{conv}.weight_{end}"] for end in ("orig", "u", "v"))
    return weight / torch.dot(u, torch.mv(weight.flatten(1), v))
