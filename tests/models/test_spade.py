"""The SPADE generator against the official layout and against a straight-line reimplementation."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskrestore.models.spade import SPADEGenerator

OFFICIAL_SHAPES = {
    "fc.weight": [1024, 36, 3, 3],
    "fc.bias": [1024],
    "head_0.conv_0.weight_orig": [1024, 1024, 3, 3],
    "head_0.conv_0.bias": [1024],
    "G_middle_0.conv_1.weight_u": [1024],
    "G_middle_1.norm_1.param_free_norm.running_mean": [1024],
    "G_middle_1.norm_0.param_free_norm.num_batches_tracked": [],
    "up_0.conv_0.weight_orig": [512, 1024, 3, 3],
    "up_0.conv_0.weight_u": [512],
    "up_0.conv_0.weight_v": [9216],
    "up_0.conv_s.weight_orig": [512, 1024, 1, 1],
    "up_0.conv_s.weight_u": [512],
    "up_0.conv_s.weight_v": [1024],
    "up_1.norm_0.mlp_shared.0.weight": [128, 36, 3, 3],
    "up_1.norm_s.mlp_gamma.weight": [512, 128, 3, 3],
    "up_2.norm_1.mlp_beta.bias": [128],
    "up_3.norm_s.param_free_norm.running_var": [128],
    "up_3.conv_1.weight_orig": [64, 64, 3, 3],
    "conv_img.weight": [3, 64, 3, 3],
    "conv_img.bias": [3],
}


def test_official_layout() -> None:
    with torch.device("meta"):
        generator = SPADEGenerator(36, 64, 128, (256, 512))
    state = generator.state_dict()
    assert len(state) == 234
    assert sum(parameter.numel() for parameter in generator.parameters()) == 93_048_003
    assert {name: list(state[name].shape) for name in OFFICIAL_SHAPES} == OFFICIAL_SHAPES
    assert sum(name.endswith("num_batches_tracked") for name in state) == 18
    assert generator.latent_size == (4, 8)
    for block in ("head_0", "G_middle_0", "G_middle_1"):
        assert sum(name.startswith(f"{block}.") for name in state) == 26
    for block in ("up_0", "up_1", "up_2", "up_3"):
        assert sum(name.startswith(f"{block}.") for name in state) == 38
        assert f"{block}.conv_s.bias" not in state
    assert not any("param_free_norm.weight" in name for name in state)


def reference(state: dict[str, Tensor], segmap: Tensor, size: tuple[int, int]) -> Tensor:
    """The generator in evaluation mode, written without any module."""

    def at(height: int, width: int) -> Tensor:
        rows = torch.arange(height) * segmap.shape[2] // height
        columns = torch.arange(width) * segmap.shape[3] // width
        return segmap[:, :, rows][..., columns]

    def conv(name: str, x: Tensor) -> Tensor:
        if f"{name}.weight" in state:
            weight = state[f"{name}.weight"]
        else:
            weight = state[f"{name}.weight_orig"]
            matrix = weight.reshape(weight.shape[0], -1)
            weight = weight / (state[f"{name}.weight_u"] @ matrix @ state[f"{name}.weight_v"])
        return F.conv2d(x, weight, state.get(f"{name}.bias"), padding=weight.shape[2] // 2)

    def spade(name: str, x: Tensor) -> Tensor:
        mean = state[f"{name}.param_free_norm.running_mean"][:, None, None]
        variance = state[f"{name}.param_free_norm.running_var"][:, None, None]
        hidden = conv(f"{name}.mlp_shared.0", at(x.shape[2], x.shape[3])).clamp(min=0)
        normalized = (x - mean) / (variance + 1e-5).sqrt()
        return normalized * (1 + conv(f"{name}.mlp_gamma", hidden)) + conv(
            f"{name}.mlp_beta", hidden
        )

    def lrelu(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, 0.2 * x)

    def block(name: str, x: Tensor) -> Tensor:
        y = conv(f"{name}.conv_0", lrelu(spade(f"{name}.norm_0", x)))
        y = conv(f"{name}.conv_1", lrelu(spade(f"{name}.norm_1", y)))
        if f"{name}.conv_s.weight_orig" in state:
            x = conv(f"{name}.conv_s", spade(f"{name}.norm_s", x))
        return x + y

    def up(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    more = size[0] % 64 == 0 and size[1] % 64 == 0
    latent = 64 if more else 32
    x = conv("fc", at(size[0] // latent, size[1] // latent))
    x = block("head_0", x)
    x = block("G_middle_0", up(x))
    x = block("G_middle_1", up(x) if more else x)
    for name in ("up_0", "up_1", "up_2", "up_3"):
        x = block(name, up(x))
    return conv("conv_img", lrelu(x)).tanh()


@pytest.mark.parametrize("size", [(64, 128), (96, 64)])
def test_computes_what_the_paper_says(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    generator = SPADEGenerator(6, 2, 5, size)
    with torch.no_grad():
        for parameter in generator.parameters():  # the initial weights would hide most mistakes
            parameter.mul_(20).add_(0.2 * torch.randn_like(parameter))
        for _ in range(3):  # running statistics and singular vectors that are not the initial ones
            generator(torch.rand(2, 6, *size))
    generator.eval()
    segmap = torch.rand(2, 6, *size)
    with torch.no_grad():
        image = generator(segmap)
        expected = reference(generator.state_dict(), segmap, size)
    assert image.shape == (2, 3, *size)
    assert image.std() > 0.05
    torch.testing.assert_close(image, expected, atol=2e-5, rtol=0)


def test_output_size_is_the_configured_one_whatever_the_segmap_size() -> None:
    generator = SPADEGenerator(4, 1, 2, (32, 64))
    assert generator(torch.rand(2, 4, 16, 32)).shape == (2, 3, 32, 64)


@pytest.mark.parametrize("size", [(48, 64), (64, 100), (0, 32)])
def test_refuses_sizes_that_doubling_cannot_reach(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}"):
        SPADEGenerator(4, 1, 2, size)


def test_starts_as_spade_does() -> None:
    torch.manual_seed(0)
    generator = SPADEGenerator(36, 8, 16, (64, 64))
    weight = generator.head_0.conv_0.weight_orig  # Glorot: sqrt(2 / (fan_in + fan_out)) * gain
    assert isinstance(weight, Tensor)
    assert weight.std().item() == pytest.approx(0.02 * (2 / (2 * 9 * 128)) ** 0.5, rel=0.05)
    assert all(not p.any() for name, p in generator.named_parameters() if name.endswith("bias"))
