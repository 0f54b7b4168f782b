"""The way of masks through one process: read ahead, restored in batches, written behind."""

import errno
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from maskrestore.data.pictures import Pixels
from maskrestore.data.png import png
from maskrestore.inference.mask_files import MaskFile
from maskrestore.inference.networks import Networks
from maskrestore.inference.output.journal import Journal
from maskrestore.inference.processing import OpenMask, Processor
from maskrestore.utils.errors import Interrupted, UserError
from maskrestore.utils.files import write_atomically
from maskrestore.utils.stopping import StopRequest

THREADS = 2
"""That read masks, and as many that write, per process."""
AHEAD = 4
"""Masks that are read ahead, and as many that may wait to be written."""
BAD_NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""What file systems answer to names that they cannot have: the fault of one mask."""


class Restorer:
    """Restores masks into the folder `output`, batch_size pieces at a time, and notes each one."""

    def __init__(
        self,
        networks: Networks,
        processor: Processor,
        output: Path,
        journal: Journal,
        batch_size: int,
    ) -> None:
        self._networks, self._processor = networks, processor
        self._output, self._journal, self._batch_size = output, journal, batch_size

    def restore(self, files: Sequence[MaskFile], stop: StopRequest, label: str | None) -> list[str]:
        """Restore masks; returns what is wrong with those that could not be. label: of a progress
        bar, if there is to be one.

        Raises Interrupted if `stop` is asked for, OSError if something cannot be written.
        """
        problems: list[str] = []
        batch: list[tuple[OpenMask, Tensor, Tensor]] = []
        writing: deque[Future[str | None]] = deque()
        readers, writers = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(THREADS)
        bar = tqdm(total=len(files), desc=label, unit="mask", disable=label is None)

        def flush() -> None:
            if stop.signal is not None:
                raise Interrupted(f"{self._output}: stopped as asked; the same command goes on")
            for mask in self._forward(batch):
                restored = self._processor.finish(mask, self._networks)
                writing.append(writers.submit(self._write, mask, *restored))
                bar.update()
            batch.clear()
            end_writing(AHEAD)

        def end_writing(most: int) -> None:
            """Wait until no more than so many masks are being written."""
            while len(writing) > most:
                problem = writing.popleft().result()
                problems.extend([problem] if problem is not None else [])

        try:
            for file, opening in self._read_ahead(readers, files):
                try:
                    mask = opening.result()
                except UserError as error:
                    self._journal.note(file, "failed", problem=str(error))
                    problems.append(str(error))
                    bar.update()
                    continue
                for piece, image in mask.pieces:
                    batch.append((mask, piece, image))
                    if len(batch) == self._batch_size:
                        flush()
            flush()
            end_writing(0)
        finally:
            # What is being written is written to its end.
            readers.shutdown(cancel_futures=True)
            writers.shutdown()
            bar.close()
        return problems

    def _read_ahead(
        self, readers: ThreadPoolExecutor, files: Sequence[MaskFile]
    ) -> Iterator[tuple[MaskFile, Future[OpenMask]]]:
        """Each mask, of which a few are read before they are asked for."""
        waiting: deque[tuple[MaskFile, Future[OpenMask]]] = deque()
        for file in files:
            waiting.append((file, readers.submit(self._processor.open, file)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting

    def _forward(self, batch: Sequence[tuple[OpenMask, Tensor, Tensor]]) -> Iterator[OpenMask]:
        """Give each mask the logits of its pieces; yields those that now have all."""
        if not batch:
            return
        masks, pieces, images = zip(*batch, strict=True)
        for mask, logits in zip(masks, self._networks.logits(pieces, images), strict=True):
            mask.fitted.add(logits)
            mask.num_left -= 1
            if mask.num_left == 0:
                yield mask

    def _write(self, mask: OpenMask, files: dict[str, Pixels], row: dict[str, Any]) -> str | None:
        """Write a mask's files and note it; or note, and return, that it cannot be called so."""
        self._journal.note(mask.file, "begun")
        names = mask.file.outputs("synthesized" in files)
        # The longest first: if it is too long, none is written.
        for kind in sorted(files, key=lambda kind: len(names[kind]), reverse=True):
            path = self._output / names[kind]
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, png(files[kind]))
            except OSError as error:
                if error.errno not in BAD_NAME:
                    raise
                problem = (
                    f"{mask.file.path}: cannot be written as {names[kind]}: {error.strerror}; give "
                    "the mask another name"
                )
                self._journal.note(mask.file, "failed", problem=problem)
                return problem
        self._journal.note(mask.file, "done", stamp=mask.stamp, row=row)
        return None
