"""A device whose memory is full: what was in use, and what to set."""

import re
import socket
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from maskrestore.utils.errors import UserError

FULL = re.compile(
    "out of memory|(CUBLAS|CUDNN|CUSOLVER)_STATUS_ALLOC_FAILED|can't allocate memory", re.IGNORECASE
)
"""How CUDA, its libraries and torch's allocator for the CPU say it, for lack of a class."""
CROWDED = "not even CUDA itself found room: other programs fill it (see nvidia-smi)"
GIB = 2**30


@contextmanager
def told_if_full(device: torch.device, work: str, remedies: Sequence[str]) -> Iterator[None]:
    """Within it, memory that is full is a UserError: which device's, in what work, how much was
    used, and what to set.

    What the work held is let go of, so that the other processes can be told with collectives.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or FULL.search(str(error))):
            raise
        whose, use = _use(device)
        lines = [f"{whose} is out of memory in {work}: {use}{_wanted(str(error))}"]
        if remedies and use != CROWDED:
            lines.append(f"it takes less with {' or '.join(remedies)}")
        traceback.clear_frames(error.__traceback__)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        raise UserError("; ".join(lines)) from None


def _use(device: torch.device) -> tuple[str, str]:
    """Whose memory it is, and where it went."""
    host = socket.gethostname()
    if device.type != "cuda":
        return host, "its main memory is full"
    whose = f"{host} GPU {device.index or 0} ({torch.cuda.get_device_name(device)})"
    peak, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.memory_reserved(device)
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:  # it asks within CUDA's context, for which there is no room
        return whose, CROWDED
    others = _size(max(0, total - free - reserved))
    return (
        whose,
        f"of {_size(total)} the tensors of this process had {_size(peak)} at their peak, CUDA "
        f"itself and other programs {others}",
    )


def _wanted(text: str) -> str:
    asked = re.search(r"tried to allocate ([\d.]+) ?(\w+)", text, re.IGNORECASE)
    if asked is None:
        return ""
    amount, unit = asked.groups()
    return f"; {_size(int(amount)) if unit == 'bytes' else f'{amount} {unit}'} more were wanted"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.2f} GiB"
