"""Networks that are used and never trained, and the image generator's fast form."""

from typing import Self

import torch
from torch import Tensor, nn

from maskrestore.models.spade import SPADE, SPADEGenerator, SPADEResnetBlock


class Frozen(nn.Module):
    """A module whose parameters and buffers never change, inside whatever trains around it.

    Gradients still flow through it to its input: only its parameters are cut off, so calls must
    not stand under torch.no_grad where that gradient is wanted.
    """

    def freeze(self) -> None:
        """Call at the end of __init__."""
        self.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Stays in evaluation mode: `parent.train()` must not wake batch statistics up."""
        return super().train(False)


class FrozenGenerator(Frozen):
    """Computes what `generator.eval()` does, with fewer operations, and shares no memory with it.

    Spectral norm is divided out once; the running statistics of batch norm go into the gamma and
    beta convolutions, which become one.
    """

    def __init__(self, generator: SPADEGenerator) -> None:
        super().__init__()
        with torch.device("meta"):  # no memory, and no random numbers drawn
            self.generator = SPADEGenerator(
                generator.semantic_nc,
                generator.width,
                generator.hidden,
                generator.size,
                spectral=False,
            )
        self.generator.load_state_dict(_without_spectral_norm(generator), assign=True)
        for block in self.generator.children():
            if isinstance(block, SPADEResnetBlock):
                for name, norm in list(block.named_children()):
                    if isinstance(norm, SPADE):
                        setattr(block, name, FusedSPADE(norm))
        self.freeze()

    def forward(self, segmap: Tensor) -> Tensor:
        """segmap float [B,semantic_nc,H,W] -> image [B,3,height,width] in [-1,1]."""
        image: Tensor = self.generator(segmap)
        return image


class FusedSPADE(nn.Module):
    """A SPADE with fixed batch statistics as x * scale + shift, both from one convolution.

    With mean m and standard deviation s of the norm: (x - m) / s * (1 + gamma) + beta
    = x * scale + shift, where scale = (1 + gamma) / s and shift = beta - m * scale. As gamma and
    beta are convolutions, 1, s and m go into their weights and biases.
    """

    def __init__(self, spade: SPADE) -> None:
        super().__init__()
        state = {name: tensor.double() for name, tensor in spade.state_dict().items()}
        mean = state["param_free_norm.running_mean"]
        inverse = (state["param_free_norm.running_var"] + spade.param_free_norm.eps).rsqrt()
        scale_weight = state["mlp_gamma.weight"] * inverse[:, None, None, None]
        scale_bias = (1 + state["mlp_gamma.bias"]) * inverse
        shift_weight = state["mlp_beta.weight"] - mean[:, None, None, None] * scale_weight
        shift_bias = state["mlp_beta.bias"] - mean * scale_bias
        weight = torch.cat([scale_weight, shift_weight]).float()
        bias = torch.cat([scale_bias, shift_bias]).float()
        self.mlp_shared = spade.mlp_shared
        self.scale_and_shift = nn.Conv2d(weight.shape[1], len(weight), 3, padding=1, device="meta")
        self.scale_and_shift.load_state_dict({"weight": weight, "bias": bias}, assign=True)

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        """As SPADE.forward."""
        scale, shift = self.scale_and_shift(self.mlp_shared(segmap)).chunk(2, dim=1)
        return torch.addcmul(shift, x, scale)


def _without_spectral_norm(generator: SPADEGenerator) -> dict[str, Tensor]:
    """The state of the same generator built with spectral=False: weight = weight_orig / sigma."""
    state = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    for original in [name for name in state if name.endswith(".weight_orig")]:
        prefix = original.removesuffix("_orig")
        weight, u, v = (state.pop(prefix + end) for end in ("_orig", "_u", "_v"))
        state[prefix] = weight / torch.dot(u, torch.mv(weight.flatten(1), v))
    return state
