"""Independent pieces of work over processes or threads, with a progress bar and a clean end."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from maskrestore.utils.errors import UserError
from maskrestore.utils.system import count_cores

Work = TypeVar("Work")
Result = TypeVar("Result")


def look_at_all(
    function: Callable[[Work], Result], pieces: Sequence[Work], title: str, unit: str
) -> list[Result]:
    """Results in the order of `pieces` of a function that mostly waits for files: by threads."""
    executor = ThreadPoolExecutor(8)
    try:
        results = executor.map(function, pieces)
        return list(tqdm(results, title, total=len(pieces), unit=unit))
    finally:
        executor.shutdown(cancel_futures=True)


def run_all(
    function: Callable[[Work], Result],
    pieces: Sequence[Work],
    sizes: Sequence[int],
    workers: int,
    title: str,
    unit: str,
) -> list[Result]:
    """Results in the order of `pieces`; the bar advances by the size of each finished piece.

    workers: processes, 0 = one per core. The first exception of a piece ends the rest and is
    raised here, as is KeyboardInterrupt; no process outlives this one. Raises UserError if a
    process dies.
    """
    processes = min(workers or count_cores(), len(pieces))
    with tqdm(total=sum(sizes), desc=title, unit=unit) as bar:
        if processes <= 1:
            results = []
            for piece, size in zip(pieces, sizes, strict=True):
                results.append(function(piece))
                bar.update(size)
            return results
        # Spawned, since the caller may have threads, which do not survive a fork.
        context = multiprocessing.get_context("spawn")
        executor = ProcessPoolExecutor(processes, context, _start)
        try:
            # A worker that is still importing would answer Ctrl-C with a traceback: it gets the
            # signal when it is ready (_start).
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                futures = {
                    executor.submit(function, piece): index for index, piece in enumerate(pieces)
                }
            finally:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            for future in as_completed(futures):
                future.result()
                bar.update(sizes[futures[future]])
        except BaseException as error:
            for process in multiprocessing.active_children():
                process.terminate()
            executor.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    f"{title}: a worker process died, perhaps of too little memory; "
                    f"try fewer than workers={processes}"
                ) from error
            raise
        executor.shutdown()
        return [future.result() for future in futures]


def _start() -> None:
    """In each worker: end silently on Ctrl-C, and with the parent, even if that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
