"""The networks of one process: from damaged masks to class logits, and from masks to images."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.pictures import Pixels
from maskrestore.data.segmap import one_hot, to_uint8
from maskrestore.distributed.processes import autocast
from maskrestore.models.build import load_frozen_generator, load_mask_generator
from maskrestore.utils.system import keep_freed_memory


class Networks:
    """The run's mask generator, and with `augment` its image generator, on `device`.

    Raises UserError if their files do not fit.
    """

    def __init__(self, run: RunConfig, augment: bool, device: torch.device) -> None:
        self._run, self._device = run, device
        self._mask_generator = load_mask_generator(run).to(device).eval()
        self._image_generator = load_frozen_generator(run, device) if augment else None
        keep_freed_memory(device.type)

    @torch.no_grad()
    def logits(self, pieces: Sequence[Tensor], images: Sequence[Tensor]) -> Tensor:
        """[B,classes,h,w]: what the evaluation of the run would see of these pieces.

        pieces: uint8 [h,w] ids at the network's size; images: uint8 [3,h,w] each, or NO_IMAGE.
        """
        label_map = torch.stack(list(pieces)).to(self._device).long()
        image = torch.stack(list(images)).to(self._device)
        degraded, valid = degrade(self._run, label_map, label_map)
        with autocast(self._run, self._device):
            seen = mask_generator_input(self._run, degraded, valid, image)
            logits: Tensor = self._mask_generator(*seen)
        return logits

    @torch.no_grad()
    def synthesize(self, label_map: Tensor, key: str, image: Pixels | None) -> Pixels:
        """uint8 [h,w] ids at the network's size -> uint8 [h,w,3]. key: the mask's, for a style that
        is drawn; image: uint8 [H,W,3], for one that is taken of it."""
        if self._image_generator is None:
            raise RuntimeError("no image generator was loaded")
        num_classes = self._run.data.labels.num_classes
        segmap = one_hot(label_map[None].to(self._device).long(), num_classes)
        real = None
        if image is not None:
            real = torch.from_numpy(image)[None].permute(0, 3, 1, 2).to(self._device)
        edges = self._run.generator.edges
        drawn = self._image_generator(segmap, edges, keys=[key], real=real)
        pixels: Pixels = to_uint8(drawn)[0].permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(pixels)
