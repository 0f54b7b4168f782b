"""The networks that restore masks, and the way of a mask through them: read, restore, write."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from maskrestore.config.inference import Encoding, RestoreConfig
from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import degrade, mask_generator_input, nearest_upsample
from maskrestore.data.labels import UNANNOTATED
from maskrestore.data.png import png, read_image
from maskrestore.data.segmap import generator_input, one_hot, to_uint8
from maskrestore.distributed.processes import autocast
from maskrestore.inference import uncertain_regions as review
from maskrestore.inference.encodings import Pixels, from_ids, to_ids
from maskrestore.inference.mask_files import MaskFile, read_picture
from maskrestore.inference.output_folder import RestoreFolder, stamp
from maskrestore.inference.tiling import Shrunk, Tiles, resize_nearest
from maskrestore.models.build import load_frozen_generator, load_mask_generator
from maskrestore.utils.errors import Interrupted, UserError
from maskrestore.utils.files import write_atomically
from maskrestore.utils.stopping import StopRequest
from maskrestore.utils.system import keep_freed_memory

THREADS = 2
"""That read masks, and as many that write, per process."""
AHEAD = 4
"""Masks that are read ahead, and as many that may wait to be written."""
Pieces = Iterator[tuple[Tensor, Tensor]]
"""uint8 [h,w] ids and uint8 [3,h,w] of the image, at the network's size."""
NO_IMAGE = torch.empty(0, dtype=torch.uint8)


@dataclass
class Job:
    """A mask that was read. given: uint8 [H,W] ids at the size of the restored one; image: uint8
    [H,W,3] or None; pieces: of `given` and of the image; stamp: of the files read."""

    mask: MaskFile
    given: Tensor
    image: Pixels | None
    fitted: Tiles | Shrunk
    pieces: Pieces
    stamp: list[int]
    num_left: int


class Restorer:
    """The networks of one process, and what they make of masks.

    Raises UserError if the networks' files do not fit.
    """

    def __init__(
        self,
        config: RestoreConfig,
        run: RunConfig,
        encoding: Encoding,
        folder: RestoreFolder,
        device: torch.device,
    ) -> None:
        self._config, self._run, self._device = config, run, device
        self._encoding, self._folder = encoding, folder
        self._keep = config.keeps_annotated(run)
        self._factor = run.degrade.factor if run.task == "super_resolution" else 1
        self._mask_generator = load_mask_generator(run).to(device).eval()
        self._image_generator: nn.Module | None = None
        if config.augment:
            self._image_generator = load_frozen_generator(run, device)
        keep_freed_memory(device.type)

    def restore(self, masks: Sequence[MaskFile], stop: StopRequest, label: str | None) -> list[str]:
        """Restore masks; returns what is wrong with those that could not be. label: of a progress
        bar, if there is to be one.

        Raises Interrupted if `stop` is asked for, OSError if something cannot be written.
        """
        problems: list[str] = []
        batch: list[tuple[Job, Tensor, Tensor]] = []
        writing: deque[Future[None]] = deque()
        readers, writers = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(THREADS)
        bar = tqdm(total=len(masks), desc=label, unit="mask", disable=label is None)

        def flush() -> None:
            if stop.signal is not None:
                raise Interrupted(
                    f"{self._config.output}: stopped as asked; the same command goes on"
                )
            if not batch:
                return
            for (job, *_), logits in zip(batch, self._logits(batch), strict=True):
                job.fitted.add(logits)
                job.num_left -= 1
                if job.num_left == 0:
                    writing.append(writers.submit(self._write, job, *self._finish(job)))
                    bar.update()
            batch.clear()
            while len(writing) > AHEAD:
                writing.popleft().result()

        try:
            for mask, reading in _read_ahead(readers, self._open, masks):
                try:
                    job = reading.result()
                except UserError as error:
                    self._folder.note(mask, "failed", problem=str(error))
                    problems.append(str(error))
                    bar.update()
                    continue
                for piece, image in job.pieces:
                    batch.append((job, piece, image))
                    if len(batch) == self._config.batch_size:
                        flush()
            flush()
            for future in writing:
                future.result()
        finally:
            # What is being written is written to its end.
            readers.shutdown(cancel_futures=True)
            writers.shutdown()
            bar.close()
        return problems

    def _open(self, mask: MaskFile) -> Job:
        """UserError names the file and what is wrong with it."""
        run, read = self._run, stamp(mask)
        try:
            ids = to_ids(read_picture(mask.path), self._encoding)
        except ValueError as error:
            raise UserError(f"{mask.path}: {error}") from error
        given = _repeat(torch.from_numpy(ids.copy()), self._factor)
        image = None
        if self._config.images is not None:
            if mask.image is None:
                raise UserError(f"{mask.path}: there is no picture {mask.images[0]}")
            image = read_image(mask.image)
            if image.shape[:2] != given.shape:
                raise UserError(
                    f"{mask.path}: its picture {mask.image} is {_by(image.shape)}, the restored "
                    f"mask will be {_by(given.shape)} (height x width)"
                )
        seen = image if run.image_channels else None
        fit = self._shrink if self._config.fit == "resize" else self._tile
        fitted, pieces = fit(torch.from_numpy(ids.copy()), given, seen)
        return Job(mask, given, image, fitted, pieces, read, len(fitted))

    def _shrink(self, ids: Tensor, given: Tensor, image: Pixels | None) -> tuple[Shrunk, Pieces]:
        size, factor, sampling = self._run.data.height_width, self._factor, "center"
        if factor > 1:
            sampling = self._run.degrade.sampling
        small = resize_nearest(ids, (size[0] // factor, size[1] // factor), sampling)
        shrunk, resized = Shrunk(given, _repeat(small, factor)), _image_piece(image, size)
        return shrunk, ((piece, resized) for piece in shrunk.pieces())

    def _tile(self, ids: Tensor, given: Tensor, image: Pixels | None) -> tuple[Tiles, Pieces]:
        size = self._run.data.height_width
        missing = [max(0, side - there) for side, there in zip(size, given.shape, strict=True)]
        border = [(0, number) for number in missing]
        # Not annotated; but a network that has always seen all annotated gets the border repeated.
        mode: Any = "edge" if self._factor > 1 else "constant"
        padded = torch.from_numpy(np.pad(given.numpy(), border, mode))
        tiles = Tiles(padded, size, self._config.overlap, self._factor)
        if image is None:
            return tiles, ((piece, NO_IMAGE) for piece in tiles.pieces())
        whole = _channels_first(np.pad(image, [*border, (0, 0)], "edge"))
        return tiles, zip(tiles.pieces(), tiles.cut(whole), strict=True)

    @torch.no_grad()
    def _logits(self, batch: Sequence[tuple[Job, Tensor, Tensor]]) -> Tensor:
        """[B,classes,h,w]: what the evaluation of the run would see of these pieces."""
        _, pieces, images = zip(*batch, strict=True)
        label_map = torch.stack(pieces).to(self._device).long()
        image = torch.stack(images).to(self._device)
        degraded, valid = degrade(self._run, label_map, label_map)
        with autocast(self._run, self._device):
            seen = mask_generator_input(self._run, degraded, valid, image)
            logits: Tensor = self._mask_generator(*seen)
        return logits

    def _finish(self, job: Job) -> tuple[dict[str, Pixels], dict[str, Any]]:
        """{kind: pixels of the file to be written}, and the line of the summary."""
        height, width = job.given.shape
        labels, confidence, confidence_given = (
            part[:height, :width].numpy() for part in job.fitted.finish()
        )
        given = job.given.numpy()
        annotated = np.full_like(given, True, dtype=bool)
        if self._factor == 1:
            annotated = given != UNANNOTATED
        contradicted = annotated & (labels != given)
        if self._keep:
            labels = np.where(annotated, given, labels)
            confidence = np.where(annotated, confidence_given, confidence)
        files = {
            "restored": from_ids(labels, self._encoding),
            "confidence": np.ascontiguousarray(confidence),
            "overlay": review.overlay(labels, ~annotated, contradicted, job.image),
        }
        if self._image_generator is not None:
            small = resize_nearest(torch.from_numpy(labels), self._run.data.height_width)
            files["synthesized"] = self._synthesize(self._image_generator, small)
            files["synthesized_mask"] = from_ids(small.numpy(), self._encoding)
        row = review.figures(annotated, contradicted, confidence, self._config.regions)
        return files, row

    @torch.no_grad()
    def _synthesize(self, generator: nn.Module, label_map: Tensor) -> Pixels:
        """uint8 [h,w] ids -> uint8 [h,w,3]."""
        segmap = one_hot(label_map[None].to(self._device).long())
        image = generator(generator_input(segmap, self._run.generator.edges))
        pixels: Pixels = to_uint8(image)[0].permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(pixels)

    def _write(self, job: Job, files: dict[str, Pixels], row: dict[str, Any]) -> None:
        self._folder.note(job.mask, "begun")
        names = job.mask.outputs(self._config.augment)
        for kind, pixels in files.items():
            path = self._config.output / names[kind]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, png(pixels))
        self._folder.note(job.mask, "done", stamp=job.stamp, row=row)


def _read_ahead(
    readers: ThreadPoolExecutor, read: Callable[[MaskFile], Job], masks: Sequence[MaskFile]
) -> Iterator[tuple[MaskFile, Future[Job]]]:
    """Each mask with its job, a few of which are read before they are asked for."""
    waiting: deque[tuple[MaskFile, Future[Job]]] = deque()
    for mask in masks:
        waiting.append((mask, readers.submit(read, mask)))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _repeat(ids: Tensor, factor: int) -> Tensor:
    return ids if factor == 1 else nearest_upsample(ids[None], factor)[0]


def _image_piece(image: Pixels | None, size: tuple[int, int]) -> Tensor:
    """The whole image at the network's size, resized as the training images were."""
    if image is None:
        return NO_IMAGE
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    return _channels_first(np.asarray(resized))


def _channels_first(image: Pixels) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"
