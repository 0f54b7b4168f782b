"""Weight files: read without ever running code from them, written whole or not at all."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from maskrestore.models.spade import SPADEGenerator
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that holds a plain state dict, on the CPU.

    Raises UserError on a file that is missing, damaged, or holds anything but named tensors.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can raise anything in the unpickler
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{path}: cannot be read as PyTorch weights (damaged, cut off, or holding code, which "
            f"is never run): {reason}"
        ) from error
    if not isinstance(state, Mapping) or not state:
        raise UserError(f"{path}: holds a {type(state).__name__}, not a dict of named tensors")
    strange = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if strange or not all(isinstance(name, str) for name in state):
        raise UserError(
            f"{path}: is no plain state dict; {_some(map(str, strange or state))} should be a "
            "name with its tensor"
        )
    return dict(state)


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a plain dict of CPU tensors (floating point ones as float32), whole or not at all.

    Raises UserError where the folder cannot be written or the disk is full.
    """
    plain = {
        name: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else None)
        for name, tensor in state.items()
    }
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Fill `module` with `state`, strictly; `source` names it in messages.

    Only batch norm's num_batches_tracked may be missing: it counts, and computes nothing. Raises
    UserError that counts and names missing and unknown tensors and those of another shape.
    """
    expected = module.state_dict()
    missing = [
        name for name in expected if name not in state and not name.endswith(".num_batches_tracked")
    ]
    unknown = [name for name in state if name not in expected]
    reshaped = [
        f"{name} is {_shape(tensor)} in the file, {_shape(expected[name])} here"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    findings = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    if any(findings.values()):
        details = "; ".join(
            f"{len(names)} {finding} ({_some(names)})"
            for finding, names in findings.items()
            if names
        )
        raise UserError(f"{source}: does not fit {type(module).__name__}: tensors {details}")
    module.load_state_dict(dict(state), strict=False)


def load_spade_generator(path: Path, size: tuple[int, int], num_classes: int) -> SPADEGenerator:
    """The image generator in `path`: the official latest_net_G.pth, or generator.pth of a run.

    Widths are read from the file; size is (height, width) of the images in pixels, which the file
    does not record. Raises UserError on a file that is missing, damaged, foreign, or made for
    another number of classes: its input must be num_classes + 1 unused label + 1 edge channel.
    """
    if not path.is_file():
        raise UserError(
            f"generator.path={path}: no such file; give the official latest_net_G.pth, or train a "
            "generator with: python train.py task=synthesis"
        )
    state = load_weights(path)
    first, shared = state.get("fc.weight"), state.get("head_0.norm_0.mlp_shared.0.weight")
    if first is None or shared is None or first.ndim != 4 or len(first) < 16 or shared.ndim != 4:
        raise UserError(
            f"{path}: is no SPADE generator (no fc.weight and head_0 of its form); its tensors "
            f"are {_some(state)}"
        )
    generator = SPADEGenerator(
        semantic_nc=first.shape[1], width=len(first) // 16, hidden=len(shared), size=size
    )
    load_into(generator, state, path)
    if generator.semantic_nc != num_classes + 2:
        raise UserError(
            f"{path}: takes {generator.semantic_nc} input channels, but {num_classes} classes need "
            f"{num_classes + 2} (classes, 1 unused label, 1 edge channel): it was trained for "
            "other classes or without edges; train one with: python train.py task=synthesis"
        )
    return generator


def save_spade_generator(generator: SPADEGenerator, path: Path) -> None:
    """Write `generator` in the official layout, float32. Raises UserError as save_weights does."""
    save_weights(generator.state_dict(), path)


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _some(names: Iterable[str], limit: int = 3) -> str:
    every = list(names)
    return ", ".join(every[:limit]) + (", ..." if len(every) > limit else "")
