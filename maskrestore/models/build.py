"""Networks made from settings and files: the mask generator and the frozen image generator."""

from pathlib import Path

import torch
from torch import nn

from maskrestore.config.run import RunConfig
from maskrestore.data.labels import NUM_CLASSES
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import in_precision
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.weights import load_into, load_spade_generator, load_weights
from maskrestore.utils.errors import ConfigError


def load_mask_generator(config: RunConfig) -> MaskGenerator:
    """The mask generator that the run has trained, on the CPU. UserError if it does not fit."""
    shape, path = config.mask_generator, config.run / "mask_generator.pth"
    network = MaskGenerator(
        NUM_CLASSES,
        shape.width,
        shape.hidden,
        config.data.height_width,
        num_further=config.image_channels,
    )
    load_into(network, load_weights(path), path)
    return network


def load_frozen_generator(config: RunConfig, device: torch.device) -> nn.Module | None:
    """The image generator of generator.path, frozen.

    None for a run that trains the image generator itself or that works without one. Raises
    ConfigError if the run cannot work without one, UserError if the file is no fitting generator.
    """
    path = config.generator.path
    if config.trains_generator:
        return None
    if path is None:
        if config.task == "synthesis" or {"perceptual", "l1"} & set(config.terms):
            raise ConfigError(
                f"task={config.task} loss={config.loss} needs an image generator: write "
                "generator.path=FILE (the official latest_net_G.pth, or generator.pth of a run "
                "with task=synthesis)"
            )
        return None
    return _frozen_generator(config, path, device)


def _frozen_generator(config: RunConfig, path: Path, device: torch.device) -> nn.Module:
    generator = load_spade_generator(path, config.data.height_width, NUM_CLASSES)
    frozen = FrozenGenerator(generator, config.distributed.activation_checkpointing).to(device)
    return in_precision(frozen, config.distributed.frozen_precision)
