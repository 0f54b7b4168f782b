"""Where benchmarks/resume.py kills a run, and how a process kills itself at such a point."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from maskrestore.runs import run_folder
from maskrestore.utils import files


@dataclass(frozen=True)
class Phase:
    """Where a kill strikes.

    point: "before|after|half OPERATION PATH", a call of the process itself; half is half the bytes
    of a write; PATH is a pattern relative to the run folder. Empty: the parent's clock decides.
    needs: what the run folder must hold for it to be reached. share: kills relative to others.
    """

    name: str
    point: str = ""
    needs: str = ""
    share: int = 1


LOG, SAVE, NUMBER = "metrics.jsonl", "checkpoints/.*.partial", "checkpoints/[0-9]*"
STARTING, TRAINING = Phase("starting: any moment", share=2), Phase("training: any moment", share=6)
AT_START = (
    Phase("starting: half of inputs.json", "half write .inputs.json.partial"),
    Phase("starting: before metrics.jsonl is replaced", f"before replace {LOG}", LOG),
    Phase("saving: clearing a broken save away", f"after unlink {SAVE}/*", f"{SAVE}/*"),
)
PHASES = (
    STARTING,
    *AT_START,
    TRAINING,
    Phase("training: half a line of metrics.jsonl", f"half write {LOG}"),
    Phase("saving: before the folder is made", f"before mkdir {SAVE}"),
    Phase("saving: half of state.pt", f"half write {SAVE}/.state.pt.partial"),
    Phase("saving: before fsync of state.pt", f"before fsync {SAVE}/.state.pt.partial"),
    Phase("saving: after fsync of state.pt", f"after fsync {SAVE}/.state.pt.partial"),
    Phase("saving: before manifest.json", f"after replace {SAVE}/state.pt"),
    Phase("saving: half of manifest.json", f"half write {SAVE}/.manifest.json.partial"),
    Phase("saving: before manifest.json is in place", f"before replace {SAVE}/manifest.json"),
    Phase("saving: before the folder's rename", f"before replace {NUMBER}"),
    Phase("saving: after the folder's rename", f"after replace {NUMBER}"),
    Phase("saving: after fsync of that", "after fsync checkpoints"),
    Phase("pruning: before the first file", f"before unlink {NUMBER}/*"),
    Phase("pruning: one file deleted", f"after unlink {NUMBER}/*"),
    Phase("pruning: all files deleted", f"before rmdir {NUMBER}"),
)
AT_END = (
    Phase("end: before mask_generator.pth is in place", "before replace mask_generator.pth"),
    Phase("end: before result.json is in place", "before replace result.json"),
)


def arm(run: Path, point: str, is_time: Callable[[], bool]) -> None:
    """Have this process kill itself when it comes to `point`, if `is_time` then."""

    def is_here(moment: str, operation: str, path: Any, folder: int | None = None) -> bool:
        if isinstance(path, int):  # os.fsync is given a descriptor
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:  # and shutil.rmtree names a file in a folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        return fnmatch(f"{moment} {operation} {os.path.relpath(path, run)}", point) and is_time()

    def watched(operation: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            where = operation, words[-1 if operation == "replace" else 0], more.get("dir_fd")
            after = is_here("after", *where)  # asked now, while the path is there
            if is_here("before", *where):
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*words, **more)
            if after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    @contextmanager
    def half(file: Any) -> Iterator[Any]:
        def write(content: Any) -> None:
            file.write(content[: len(content) // 2])
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)

        yield SimpleNamespace(write=write)

    def opened(path: Path, mode: str = "r", **more: Any) -> Any:
        file = open(path, mode, **more)  # noqa: SIM115 - the caller closes it
        return half(file) if mode in ("wb", "a") and is_here("half", "write", path) else file

    for name in ("mkdir", "fsync", "replace", "unlink", "rmdir"):
        setattr(os, name, watched(name, getattr(os, name)))
    vars(files)["open"] = vars(run_folder)["open"] = opened
