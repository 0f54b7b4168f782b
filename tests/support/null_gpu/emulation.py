"""Results on the null GPU: its tensors are computed on the CPU, in their own memory."""

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

OF_MEMORY = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "set_"),
    *("_local_scalar_dense", "record_stream", "is_pinned", "_pin_memory", "lift_fresh", "resize_"),
    *("is_same_size", "_has_compatible_shallow_copy_type"),
}
"""Operations that compute nothing: torch does them itself."""
COUNTS = ("launches", "synchronizations", "to_device", "to_host", "unpinned")


def counts() -> dict[str, int]:
    """What the device was asked for since the process began, or since reset_counts."""
    found = (ctypes.c_long * len(COUNTS))()
    ctypes.CDLL(None).null_gpu_counts(found)
    return dict(zip(COUNTS, found, strict=True))


def reset_counts() -> None:
    ctypes.CDLL(None).null_gpu_reset()


def on_cpu(tensor: Tensor) -> Tensor:
    """The same memory as a tensor of the CPU."""
    if tensor.numel() == 0:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    size = (1 + last) * tensor.element_size()
    memory = (ctypes.c_uint8 * size).from_address(tensor.data_ptr())
    whole = torch.frombuffer(memory, dtype=torch.uint8).view(tensor.dtype)
    return whole.as_strided(tensor.shape, tensor.stride())


class Emulation(TorchDispatchMode):
    """Within it, operations on CUDA tensors have results."""

    place = torch.device("cpu")

    def lower(self, x: Tensor) -> Tensor:
        """What stands for it there."""
        return on_cpu(x)

    def fill(self, y: Tensor, x: Tensor) -> None:
        """Put a result of there into a tensor of the device."""
        on_cpu(y).copy_(x)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        tensors: list[Tensor] = []

        def noted(x: Any) -> None:
            if isinstance(x, Tensor) and x.is_cuda:
                tensors.append(x)

        _each(noted, [*args, *kwargs.values()])
        asked = kwargs.get("device")
        asked = None if asked is None else torch.device(asked)
        name = function.overloadpacket.__name__
        if not tensors and (asked is None or asked.type != "cuda"):
            return function(*args, **kwargs)
        is_traced = any(issubclass(kind, FakeTensor) for kind in types)
        if is_traced or function.is_view or name in OF_MEMORY or function.namespace != "aten":
            return function(*args, **kwargs)
        originals: dict[int, Tensor] = {}

        def lowered(x: Any) -> Any:
            if isinstance(x, Tensor) and x.is_cuda:
                copy = self.lower(x)
                originals[_identity(copy)] = x
                return copy
            if isinstance(x, torch.device) and x.type == "cuda":
                return self.place
            return x

        device = tensors[0].device if tensors else asked
        plain = {key: _each(lowered, x) for key, x in kwargs.items()}
        to_cpu = name == "_to_copy" and asked is not None and asked.type == "cpu"
        if asked is not None:
            plain["device"] = self.place
        plain.pop("pin_memory", None)
        if name == "_to_copy":
            plain.pop("non_blocking", None)
        result = function(*_each(lowered, args), **plain)
        if to_cpu:
            return result if result.device.type == "cpu" else torch.zeros_like(result, device="cpu")

        def raised(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            known = originals.get(_identity(x))
            if known is not None and known.shape == x.shape and known.dtype == x.dtype:
                return known
            y = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)
            if x.numel():
                self.fill(y, x)
            return y

        return _each(raised, result)


def _each(change: Callable[[Any], Any], x: Any) -> Any:
    """What an operation takes or gives, changed: ATen knows numbers, tensors and lists of them.
    (PyTorch's tree_map does it for any structure, in a third of all time.)"""
    if isinstance(x, list | tuple):
        return (tuple if isinstance(x, tuple) else list)(_each(change, part) for part in x)
    return change(x)


def _identity(x: Tensor) -> int:
    """Of its memory, where it has some."""
    return x.data_ptr() or id(x)


class Allocation(Emulation):
    """Within it, operations on CUDA tensors have results of the right size and nothing in them."""

    place = torch.device("meta")

    def lower(self, x: Tensor) -> Tensor:
        return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=self.place)

    def fill(self, y: Tensor, x: Tensor) -> None:
        pass

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = super().__torch_dispatch__(function, types, args, kwargs)
        is_transposed = function is torch.ops.aten.convolution.default and args[6]
        if not (is_transposed and result.is_cuda):
            return result
        # cuDNN lays it out as its arguments are; without values it is always channels first.
        layout = torch._prims_common.suggest_memory_format(args[1])
        return torch.empty_like(result, memory_format=layout)
