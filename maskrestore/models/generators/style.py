"""What an image generator draws beside the mask: the style of its picture, where it has one."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.data.sampler import seed_of
from maskrestore.models.frozen import Frozen, spectrally_normed
from maskrestore.models.spade import SLOPE
from maskrestore.models.weights import check_layout, load_weights
from maskrestore.utils.errors import UserError

NUM_LAYERS = 6
SIDE = 256
"""Pixels of the square that the encoder sees a picture as."""


class StyleEncoder(Frozen):
    """The encoder that CC-FPSE was trained with: real image -> mean of the style (VAE; SPADE,
    figure 14). Its variance is not read."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        wide = {name: tensor.double() for name, tensor in state.items()}
        for number in range(1, NUM_LAYERS + 1):
            weight = spectrally_normed(wide, f"layer{number}.0").float()
            self.register_buffer(f"weight{number}", weight)
        rows, inputs = state["fc_mu.weight"].shape
        self.mean = nn.Linear(inputs, rows)
        self.mean.load_state_dict({kind: state[f"fc_mu.{kind}"] for kind in ("weight", "bias")})
        self.freeze()

    @property
    def style_size(self) -> int:
        return self.mean.out_features

    def forward(self, image: Tensor) -> Tensor:
        """float [B,3,H,W] in [-1,1] -> float [B,style_size]."""
        x = F.interpolate(image, (SIDE, SIDE), mode="bilinear", align_corners=False)
        for number in range(1, NUM_LAYERS + 1):
            x = F.conv2d(x, self.get_buffer(f"weight{number}"), stride=2, padding=1)
            x = F.leaky_relu(F.instance_norm(x, eps=1e-5), SLOPE)
        mean: Tensor = self.mean(x.flatten(1))
        return mean


def load_style_encoder(path: Path, style_size: int) -> StyleEncoder:
    """The encoder in `path`, official layout. UserError if it is none, or of another style."""
    state = load_weights(path)
    first, last = state.get("layer1.0.weight_orig"), state.get("fc_mu.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 2:
        raise UserError(
            f"generator.style={path}: is no style encoder (no layer1 and fc_mu of its form); give "
            "the encoder's file (CC-FPSE: 200_net_E.pth), or write zero or seed"
        )
    width = len(first)
    channels = [3, *(width * factor for factor in (1, 2, 4, 8, 8, 8))]
    expected: dict[str, tuple[int, ...]] = {}
    for number, (inputs, outputs) in enumerate(pairwise(channels), 1):
        expected[f"layer{number}.0.weight_orig"] = (outputs, inputs, 3, 3)
        expected[f"layer{number}.0.weight_u"] = (outputs,)
        expected[f"layer{number}.0.weight_v"] = (9 * inputs,)
    for name in ("fc_mu", "fc_var"):
        features = channels[-1] * (SIDE >> NUM_LAYERS) ** 2
        expected |= {f"{name}.weight": (len(last), features), f"{name}.bias": (len(last),)}
    check_layout(expected, state, f"generator.style={path}", "the style encoder")
    if len(last) != style_size:
        raise UserError(
            f"generator.style={path}: gives a style of {len(last)} numbers, but the image "
            f"generator takes {style_size}; give the encoder that was trained with it"
        )
    return StyleEncoder(state)


def drawn_styles(size: int, seed: int, keys: Sequence[str]) -> Tensor:
    """Standard normal float32 [B,size], of the run's seed and each sample's key alone: drawn on
    the CPU, so that they are the same on any device and on any number of processes."""
    draws = torch.empty(len(keys), size)
    generator = torch.Generator()
    for draw, key in zip(draws, keys, strict=True):
        draw.normal_(generator=generator.manual_seed(seed_of("style", seed, key)))
    return draws
