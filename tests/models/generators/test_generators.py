"""Every image generator in its form for use, held equal to a plain program (plain_generators)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import plain_generators as plain
import pytest
import torch
from half_networks import cosine, input_gradient
from label_sets import CITYSCAPES, NUM_CLASSES
from torch import Tensor, nn

from maskrestore.models.generators import ccfpse
from maskrestore.models.generators.files import read_generator
from maskrestore.models.generators.image_generator import ImageGenerator
from maskrestore.models.half_precision import in_precision

pytestmark = pytest.mark.slow

LABELS = NUM_CLASSES + 1
LEAST_COSINE = {"bf16": 0.95, "fp16": 0.99}
"""ReLUs behind instance norms sit at their kinks: pix2pixHD's are the lowest."""
Draw = Callable[[plain.State, Tensor, Tensor | None], Tensor]


class Case(NamedTuple):
    """A file's layout, its plain program, the size of its pictures, and what its file is."""

    shapes: plain.Shapes
    draw: Draw
    size: tuple[int, int]
    kind: str
    edges: bool
    style_size: int = 0


def ccfpse_case(style: int, edges: bool, size: tuple[int, int] = (64, 128)) -> Case:
    latent = size[0] // 64 * (size[1] // 64)
    shapes = ccfpse.layout(LABELS + edges, 2, 5, 6, style, latent)

    def draw(state: plain.State, seen: Tensor, z: Tensor | None) -> Tensor:
        return plain.ccfpse(state, seen, z if style else None)

    return Case(shapes, draw, size, "CC-FPSE", edges, style)


CASES = {
    "global": Case(
        plain.pix2pixhd_shapes(LABELS + 1, 4, 4, 2),
        lambda state, seen, _: plain.pix2pixhd_global(state, seen, 4, 2),
        (64, 96),
        "pix2pixHD (global)",
        edges=True,
    ),
    "global of vid2vid": Case(
        plain.pix2pixhd_shapes(LABELS, 4, 3, 3),
        lambda state, seen, _: plain.pix2pixhd_global(state, seen, 3, 3),
        (32, 64),
        "pix2pixHD (global)",
        edges=False,
    ),
    "local": Case(
        plain.pix2pixhd_shapes(LABELS + 1, 3, 2, 2, local_blocks=2),
        lambda state, seen, _: plain.pix2pixhd_local(state, seen, 2, 2, 2),
        (64, 96),
        "pix2pixHD (local)",
        edges=True,
    ),
    "local, old": Case(
        plain.pix2pixhd_shapes(LABELS + 1, 3, 2, 2, local_blocks=2, legacy=True),
        lambda state, seen, _: plain.pix2pixhd_local(state, seen, 2, 2, 2),
        (64, 96),
        "pix2pixHD (local)",
        edges=True,
    ),
    "CC-FPSE": ccfpse_case(7, edges=True),
    "CC-FPSE without a style": ccfpse_case(0, edges=False),
    "OASIS": Case(
        plain.oasis_shapes(LABELS, 2, 6, z=5),
        lambda state, seen, z: plain.oasis(state, seen, z),
        (64, 96),
        "OASIS",
        edges=False,
        style_size=5,
    ),
    "OASIS of one row": Case(
        plain.oasis_shapes(LABELS, 2, 6, z=5),
        lambda state, seen, z: plain.oasis(state, seen, z),
        (32, 64),
        "OASIS",
        edges=False,
        style_size=5,
    ),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "_"))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def network_of(
    case: Case, path: Path, dtype: torch.dtype, checkpointing: bool = False
) -> tuple[nn.Module, plain.State]:
    """The network of a file of random weights, and these."""
    state = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in plain.random_state(case.shapes).items()
    }
    torch.save(state, path)
    file = read_generator(path, CITYSCAPES)
    assert file.form.kind == case.kind
    assert (file.form.wants_edges, file.form.style_size) == (case.edges, case.style_size)
    assert file.form.num_labels == LABELS
    assert file.form.takes(case.size)
    network = file.make(case.size, checkpointing, case.style_size > 0)
    return network.requires_grad_(False), state


def inputs_of(case: Case, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Soft labels, the unlit channel and edges; and a style."""
    torch.manual_seed(1)
    soft = (3 * torch.randn(2, NUM_CLASSES, *case.size, dtype=dtype)).softmax(1)
    others = torch.zeros(2, 1 + case.edges, *case.size, dtype=dtype)
    if case.edges:
        others[:, 1] = torch.rand(2, *case.size, dtype=dtype) > 0.8
    style = torch.randn(2, case.style_size, dtype=dtype) if case.style_size else None
    return torch.cat([soft, others], 1), style


def output_and_gradient(draw: Callable[[Tensor], Tensor], seen: Tensor) -> tuple[Tensor, Tensor]:
    seen = seen.clone().requires_grad_()
    image = draw(seen)
    torch.manual_seed(2)
    (image.double() * torch.randn(image.shape).double()).sum().backward()
    assert seen.grad is not None
    return image.detach(), seen.grad


@pytest.mark.parametrize("checkpointing", [False, True])
def test_equals_a_plain_program(case: Case, checkpointing: bool, tmp_path: Path) -> None:
    network, state = network_of(case, tmp_path / "g.pth", torch.float64, checkpointing)
    seen, style = inputs_of(case, torch.float64)
    extra = () if style is None else (style,)
    image, gradient = output_and_gradient(lambda x: network(x, *extra), seen)
    expected, of_mask = output_and_gradient(lambda x: case.draw(state, x, style), seen)
    assert image.shape == (2, 3, *case.size)
    assert expected.std() > 0.01
    assert (image - expected).abs().max() < 1e-10
    assert of_mask[:, :NUM_CLASSES].abs().max() > 0
    assert (gradient - of_mask).abs().max() < 1e-10 * of_mask.abs().max()


def test_in_float32_it_is_as_near_as_float32_is(case: Case, tmp_path: Path) -> None:
    network, state = network_of(case, tmp_path / "g.pth", torch.float32)
    seen, style = inputs_of(case, torch.float32)
    extra = () if style is None else (style,)
    expected = case.draw(state, seen, style)
    assert (network(seen, *extra) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_its_gradient_keeps_its_direction(
    case: Case, precision: str, tmp_path: Path
) -> None:
    """Of a mean over so many numbers that without scaling it would vanish in fp16."""
    network, _ = network_of(case, tmp_path / "g.pth", torch.float32)
    seen, style = inputs_of(case, torch.float32)
    extra = () if style is None else (style,)

    def gradient(of: nn.Module) -> Tensor:
        return input_gradient(of, seen, lambda image: image.square().mean() * 1e-4, *extra)

    wide = gradient(network)
    assert cosine(gradient(in_precision(network, precision)), wide) > LEAST_COSINE[precision]


def test_training_around_it_changes_nothing_in_it(case: Case, tmp_path: Path) -> None:
    network, _ = network_of(case, tmp_path / "g.pth", torch.float32)
    frozen = ImageGenerator(
        network, read_generator(tmp_path / "g.pth", CITYSCAPES).form, CITYSCAPES, case.size
    )
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    nn.Sequential(nn.Conv2d(1, 1, 1), frozen).train()
    segmap = inputs_of(case, torch.float32)[0][:, :NUM_CLASSES].requires_grad_()
    frozen(segmap, "argmax").sum().backward()
    after = frozen.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(module.training for module in frozen.modules())
    assert all(parameter.grad is None for parameter in frozen.parameters())


def test_the_official_sizes() -> None:
    """Tensors, parameters and (CC-FPSE, OASIS) elements of buffers that the public files have."""

    def counts(shapes: plain.Shapes) -> tuple[int, int, int]:
        ends = ("running_mean", "running_var", "weight_u", "weight_v", "num_batches_tracked")
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        buffers = sum(size for name, size in sizes.items() if name.endswith(ends))
        return len(shapes), sum(sizes.values()) - buffers, buffers

    official = {
        (36, 64, 4, 9, 0): (56, 182_546_755),
        (36, 32, 4, 9, 3): (74, 182_857_059),
        (39, 64, 4, 9, 0): (56, 182_556_163),
        (35, 64, 3, 9, 0): (52, 45_693_699),
        (35, 32, 4, 9, 3): (74, 182_852_355),
    }
    for arguments, expected in official.items():
        assert counts(plain.pix2pixhd_shapes(*arguments)) == (*expected, 0)
    assert len(plain.pix2pixhd_shapes(36, 32, 4, 9, 3, legacy=True)) == 74 + 72
    assert counts(plain.oasis_shapes(35, 64, 128, z=64)) == (208, 71_107_523, 89_488)
    assert counts(ccfpse.layout(36, 64, 64, 128, 256, 32)) == (519, 128_055_555, 62_206)


def test_what_no_program_reads_changes_nothing(tmp_path: Path) -> None:
    """105 tensors of a CC-FPSE file."""
    case, path = CASES["CC-FPSE"], tmp_path / "g.pth"
    network, state = network_of(case, path, torch.float32)
    read_nowhere = ("norm_0", "conv_0.norm_layer", "conv_2.norm_layer")
    unread = [name for name in state if any(f".{part}." in name for part in read_nowhere)]
    assert len(unread) == 105
    torch.save(state | {name: state[name] + 5 for name in unread}, path)
    other = read_generator(path, CITYSCAPES).make(case.size, False, True)
    seen, style = inputs_of(case, torch.float32)
    assert torch.equal(other(seen, style), network(seen, style))


def test_predicted_kernels_have_the_gradient_of_their_formula() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(2, 27, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ccfpse.conditional_convolution, (x, kernels))


def test_without_a_style_it_is_the_mean_one(tmp_path: Path) -> None:
    for name in ("OASIS", "CC-FPSE"):
        case = CASES[name]
        _, state = network_of(case, tmp_path / "g.pth", torch.float64)
        network = read_generator(tmp_path / "g.pth", CITYSCAPES).make(case.size, False, False)
        seen, style = inputs_of(case, torch.float64)
        assert style is not None
        expected = case.draw(state, seen, torch.zeros_like(style))
        assert (network(seen) - expected).abs().max() < 1e-10
