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
            f"{path}: is no plain state dict; {some_of(map(str, strange or state))} should be a "
            "name with its tensor"
        )
    return dict(state)


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a plain dict of CPU tensors (floating point ones as float32), whole or not at all.

    Raises UserError where the folder cannot be written or the disk is full.
    """
    plain = {
        name: tensor.detach()
        .to("cpu", torch.float32 if tensor.is_floating_point() else None)
        .contiguous()
        for name, tensor in state.items()
    }
    buffer = io.BytesIO()
    torch.save(plain, buffer)
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def load_into(module: nn.Module, state: Mapping[str, Tensor], source: Path | str) -> None:
    """Fill `module` with `state`, strictly; `source` names it in messages. UserError as
    check_layout."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_layout(shapes, state, source, type(module).__name__)
    module.load_state_dict(dict(state), strict=False)


def check_layout(
    expected: Mapping[str, tuple[int, ...]],
    state: Mapping[str, Tensor],
    source: Path | str,
    what: str,
) -> None:
    """Raises UserError that counts and names the tensors of `source` that are missing, unknown or
    of another shape than `what` has.

    Only batch norm's num_batches_tracked may be missing: it counts, and computes nothing.
    """
    missing = [
        name for name in expected if name not in state and not name.endswith(".num_batches_tracked")
    ]
    unknown = [name for name in state if name not in expected]
    reshaped = [
        f"{name} is {list(tensor.shape)} in the file, {list(expected[name])} here"
        for name, tensor in state.items()
        if name in expected and tensor.shape != expected[name]
    ]
    findings = {"missing": missing, "unknown": unknown, "of another shape": reshaped}
    if any(findings.values()):
        details = "; ".join(
            f"{len(names)} {finding} ({some_of(names)})"
            for finding, names in findings.items()
            if names
        )
        raise UserError(f"{source}: does not fit {what}: tensors {details}")


def save_spade_generator(generator: SPADEGenerator, path: Path) -> None:
    """Write `generator` in the official layout, float32. Raises UserError as save_weights does."""
    save_weights(generator.state_dict(), path)


def some_of(names: Iterable[str], limit: int = 3) -> str:
    """The first of some names, for a message."""
    every = list(names)
    return ", ".join(every[:limit]) + (", ..." if len(every) > limit else "")
