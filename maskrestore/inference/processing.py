"""What happens to a mask before the networks, and to their answers after them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from maskrestore.config.inference import Encoding, RestoreConfig
from maskrestore.config.labels import UNANNOTATED
from maskrestore.config.run import RunConfig
from maskrestore.data.pictures import Pixels, read_image
from maskrestore.inference.encodings import from_numbers, to_numbers
from maskrestore.inference.mask_files import MaskFile, read_mask
from maskrestore.inference.networks import Networks
from maskrestore.inference.tiling import (
    Pieces,
    Shrunk,
    Tiles,
    fit_tiles,
    fit_whole,
    repeat,
    resize_nearest,
)
from maskrestore.inference.uncertain_regions import figures, overlay
from maskrestore.utils.errors import UserError


@dataclass
class OpenMask:
    """A mask that was read. given: uint8 [H,W] class numbers at the size of the restored one;
    image: uint8 [H,W,3] or None; fitted takes the logits of the pieces; stamp: of the files when
    they were read; num_left: pieces without logits."""

    file: MaskFile
    given: Tensor
    image: Pixels | None
    fitted: Tiles | Shrunk
    pieces: Pieces
    stamp: list[int]
    num_left: int


class Processor:
    """Reads masks into pieces of the network's size, and makes files of what comes back."""

    def __init__(self, config: RestoreConfig, run: RunConfig, encoding: Encoding) -> None:
        self._config, self._run, self._encoding = config, run, encoding
        self._labels = run.data.labels
        self._keeps_annotated = config.keeps_annotated(run)
        self._factor = run.degrade.factor if run.task == "super_resolution" else 1

    def open(self, file: MaskFile) -> OpenMask:
        """UserError names the file and what is wrong with it."""
        stamp = file.stamp()
        try:
            mask = read_mask(file.path, self._labels)
            numbers = torch.from_numpy(to_numbers(mask, self._encoding, self._labels))
        except ValueError as error:
            raise UserError(f"{file.path}: {error}") from error
        given = repeat(numbers, self._factor)
        image = self._read_image(file, given.shape)
        fitted, pieces = self._fit(numbers, image if self._run.image_channels else None)
        return OpenMask(file, given, image, fitted, pieces, stamp, len(fitted))

    def _read_image(self, file: MaskFile, size: Sequence[int]) -> Pixels | None:
        if file.image is None:
            return None
        if not os.path.isfile(file.image):
            raise UserError(f"{file.path}: there is no picture {file.image}")
        image = read_image(file.image)
        if image.shape[:2] != size:
            raise UserError(
                f"{file.path}: its picture {file.image} is {_by(image.shape)}, the restored "
                f"mask will be {_by(size)} (height x width)"
            )
        return image

    def _fit(self, numbers: Tensor, image: Pixels | None) -> tuple[Tiles | Shrunk, Pieces]:
        size, factor = self._run.data.network_size, self._factor
        if self._config.fits_by(self._run) == "tile":
            return fit_tiles(numbers, image, size, factor, self._config.overlap)
        sampling = self._run.degrade.sampling if factor > 1 else "center"
        return fit_whole(numbers, image, size, factor, sampling)

    def finish(
        self, mask: OpenMask, networks: Networks
    ) -> tuple[dict[str, Pixels], dict[str, Any]]:
        """{kind: pixels of the file to be written}, and the line of the summary, once all logits
        were added."""
        height, width = mask.given.shape
        labels, confidence, confidence_given = (
            part[:height, :width].numpy() for part in mask.fitted.finish()
        )
        given = mask.given.numpy()
        annotated = given != UNANNOTATED
        if self._factor > 1 and self._labels.has_unlabeled_class:
            annotated = np.full_like(given, True, dtype=bool)
        contradicted = annotated & (labels != given)
        if self._keeps_annotated:
            labels = np.where(annotated, given, labels)
            confidence = np.where(annotated, confidence_given, confidence)
        files = {
            "restored": from_numbers(labels, self._encoding, self._labels),
            "confidence": np.ascontiguousarray(confidence),
            "overlay": overlay(labels, self._labels, ~annotated, contradicted, mask.image),
        }
        if self._config.augment:
            small = resize_nearest(torch.from_numpy(labels), self._run.data.height_width)
            files["synthesized"] = networks.synthesize(small, mask.file.name, mask.image)
            files["synthesized_mask"] = from_numbers(small.numpy(), self._encoding, self._labels)
        return files, figures(annotated, contradicted, confidence, self._config.regions)


def _by(shape: Sequence[int]) -> str:
    return f"{shape[0]}x{shape[1]}"
