"""Image generators' files: what a file is, told by its tensors' names, and the network in it.

The key layouts are those of the official programs' checkpoints (docs/generators.md).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from maskrestore.config.labels import LabelSet
from maskrestore.models.frozen import FrozenGenerator, working_dtype
from maskrestore.models.generators import ccfpse, oasis
from maskrestore.models.generators.image_generator import Form
from maskrestore.models.generators.pix2pixhd import InstanceNorm, Pix2PixHDGlobal, Pix2PixHDLocal
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import check_layout, load_into, load_weights, some_of
from maskrestore.utils.errors import UserError

State = Mapping[str, Tensor]
Size = tuple[int, int]

FOREIGN = {
    "conv_logits.weight": "a mask generator of ours",
    "layer1.0.weight_orig": "a style encoder (netE); its place is generator.style",
    "discriminator_0.model0.0.weight": "a discriminator (netD)",
    "scale0_layer0.0.weight": "a discriminator (netD)",
    "layer_up_last.weight": "a discriminator (netD)",
    "head_0.norm_0.class_specified_affine.weight": "a CLADE generator, which is not supported",
}
"""A tensor's name -> what files with it are that draw no images."""


@dataclass(frozen=True)
class GeneratorFile:
    """An image generator's file that was read: its form, and the network, frozen, still to be made.

    make: (size that it draws at, activation_checkpointing, with a style?) -> the network.
    """

    path: Path
    form: Form
    make: Callable[[Size, bool, bool], nn.Module]


def read_generator(path: Path, labels: LabelSet) -> GeneratorFile:
    """The image generator in `path`, whatever its kind.

    Raises UserError on a file that is missing, damaged, of another kind or form, or made for
    another number of classes.
    """
    if not path.is_file():
        raise UserError(
            f"generator.path={path}: no such file; give an official one (docs/generators.md), or "
            "train a generator with: python train.py task=synthesis"
        )
    state = load_weights(path)
    for name, read in READERS.items():
        if name in state:
            return read(state, path, labels)
    for name, what in FOREIGN.items():
        if name in state:
            raise UserError(f"generator.path={path}: is {what}, and no image generator")
    raise UserError(
        f"generator.path={path}: is no image generator of a kind that is known (SPADE, pix2pixHD, "
        f"CC-FPSE, OASIS: docs/generators.md); its tensors are {some_of(state)}"
    )


def _labels_of(
    path: Path, kind: str, num_inputs: int, labels: LabelSet, style: int = 0
) -> tuple[int, bool]:
    """Channels of the label map, and whether edges follow it. UserError if they are for others."""
    channels = num_inputs - style
    sizes = [labels.num_classes + 1, len(labels.evaluated)]
    if not labels.has_unlabeled_class:  # official ones of such sets, of which ours has one more
        sizes.insert(0, labels.num_classes)
    for num_labels in sizes:
        if channels in (num_labels, num_labels + 1):
            return num_labels, channels > num_labels
    features = ": those of a feature encoder as well" if channels == labels.num_classes + 5 else ""
    raise UserError(
        f"generator.path={path}: this {kind} generator takes {num_inputs} input "
        f"channels{features}, but the {labels.num_classes} classes of {labels.name} need "
        f"{style + sizes[0]}, or 1 more with an edge channel: it was trained for other classes; "
        "train one with: python train.py task=synthesis"
    )


def _shape(state: State, name: str, num_dims: int, path: Path, kind: str) -> torch.Size:
    if name not in state or state[name].ndim != num_dims:
        raise UserError(f"generator.path={path}: a {kind} generator without its {name}")
    return state[name].shape


def _spade(state: State, path: Path, labels: LabelSet) -> GeneratorFile:
    first = _shape(state, "fc.weight", 4, path, "SPADE")
    shared = _shape(state, "head_0.norm_0.mlp_shared.0.weight", 4, path, "SPADE")
    num_labels, edges = _labels_of(path, "SPADE", first[1], labels)

    def make(size: Size, checkpointing: bool, style: bool) -> nn.Module:
        del style
        generator = SPADEGenerator(first[1], first[0] // 16, shared[0], size)
        generator.to(working_dtype(state))
        load_into(generator, state, path)
        return FrozenGenerator(generator, checkpointing)

    return GeneratorFile(path, Form("SPADE", num_labels, edges), make)


def _oasis(state: State, path: Path, labels: LabelSet) -> GeneratorFile:
    first = _shape(state, "fc.weight", 4, path, "OASIS")
    shared = _shape(state, "body.0.norm_0.mlp_shared.0.weight", 4, path, "OASIS")
    num_labels = labels.num_classes + labels.has_unlabeled_class
    style_size = first[1] - num_labels  # one number says both
    if not 1 <= style_size <= oasis.STYLE_SIZE:
        _labels_of(path, "OASIS", first[1], labels, oasis.STYLE_SIZE)

    def make(size: Size, checkpointing: bool, style: bool) -> nn.Module:
        generator = SPADEGenerator(
            first[1], first[0] // 16, shared[0], size, oasis.BLOCKS, style_size
        ).to(working_dtype(state))
        load_into(generator, oasis.spade_names(state), path)
        return FrozenGenerator(generator, checkpointing, style)

    form = Form("OASIS", num_labels, wants_edges=False, style_size=style_size)
    return GeneratorFile(path, form, make)


def _ccfpse(state: State, path: Path, labels: LabelSet) -> GeneratorFile:
    kind = "CC-FPSE"
    label_width, num_inputs = _shape(state, "labelenc1.0.0.weight_orig", 4, path, kind)[:2]
    width = _shape(state, "conv_img.weight", 4, path, kind)[1]
    hidden = _shape(state, "head_0.gen_weights1.0.weight", 4, path, kind)[0]
    has_style = state.get("fc.weight", torch.empty(0)).ndim == 2
    rows, style_size = _shape(state, "fc.weight", 2 if has_style else 4, path, kind)[:2]
    latent = rows // (16 * width) if has_style else 0
    style_size = style_size if has_style else 0
    num_labels, edges = _labels_of(path, kind, num_inputs, labels)
    sizes = (num_inputs, width, label_width, hidden, style_size)
    check_layout(ccfpse.layout(*sizes, latent), state, f"generator.path={path}", kind)

    def make(size: Size, checkpointing: bool, style: bool) -> nn.Module:
        del style
        with torch.device("meta"):
            network = ccfpse.CCFPSEGenerator(*sizes, size, checkpointing)
        network.load_state_dict(ccfpse.folded(state), assign=True)
        return network

    form = Form(kind, num_labels, edges, style_size, multiple=64, least=64, num_latent=latent)
    return GeneratorFile(path, form, make)


def _pix2pixhd(state: State, path: Path, labels: LabelSet) -> GeneratorFile:
    is_local = "model1_1.1.weight" in state
    kind = f"pix2pixHD ({'local' if is_local else 'global'})"
    width, num_inputs = _shape(state, "model.1.weight", 4, path, kind)[:2]
    if num_inputs == 3:
        raise UserError(
            f"generator.path={path}: is a feature encoder (netE) of pix2pixHD, and draws no images"
        )
    num_labels, edges = _labels_of(path, kind, num_inputs, labels)
    blocks = _numbers(state, "model.", ".conv_block.1.weight")
    num_downs = (min(blocks, default=4) - 4) // 3
    num_local_blocks = len(_numbers(state, "model1_2.", ".conv_block.1.weight"))

    def build(checkpointing: bool) -> nn.Module:
        with torch.device("meta"):
            if is_local:
                sizes = (num_inputs, len(state["model1_1.1.weight"]), num_downs, len(blocks))
                return Pix2PixHDLocal(*sizes, num_local_blocks, checkpointing)
            return Pix2PixHDGlobal(num_inputs, width, num_downs, len(blocks), checkpointing)

    plain = build(checkpointing=False)
    expected = {name: tuple(tensor.shape) for name, tensor in plain.state_dict().items()}
    legacy = set()
    for name, module in plain.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            expected[f"{name}.bias"] = (module.out_channels,)
        elif isinstance(module, InstanceNorm):
            # Old PyTorch kept statistics in every instance norm, which computed nothing.
            legacy |= {f"{name}.running_mean", f"{name}.running_var"}
    kept = {name: tensor for name, tensor in state.items() if name not in legacy}
    check_layout(expected, kept, f"generator.path={path}", kind)

    def make(size: Size, checkpointing: bool, style: bool) -> nn.Module:
        del size, style
        network, dtype = build(checkpointing), working_dtype(kept)
        network.load_state_dict({k: kept[k].to(dtype) for k in network.state_dict()}, assign=True)
        return network

    multiple = 2 ** (num_downs + is_local)
    return GeneratorFile(path, Form(kind, num_labels, edges, 0, multiple, 2 * multiple), make)


def _numbers(state: State, start: str, end: str) -> list[int]:
    """The numbers between `start` and `end` in the tensors' names."""
    middles = (
        name[len(start) : -len(end)]
        for name in state
        if name.startswith(start) and name.endswith(end)
    )
    return [int(middle) for middle in middles if middle.isdigit()]


READERS: Mapping[str, Callable[[State, Path, LabelSet], GeneratorFile]] = {
    "body.0.norm_0.first_norm.running_mean": _oasis,
    "labelenc1.0.0.weight_orig": _ccfpse,
    "head_0.norm_0.mlp_shared.0.weight": _spade,
    "model1_1.1.weight": _pix2pixhd,
    "model.1.weight": _pix2pixhd,
}
"""A tensor's name that no other kind's file has -> the reader of that kind, the surest first."""
