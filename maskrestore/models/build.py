"""Networks made from settings and files: the mask generator and the frozen image generator."""

import torch
from torch import nn

from maskrestore.config.run import RunConfig
from maskrestore.data.labels import NUM_CLASSES
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.half_precision import in_precision
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import load_into, load_spade_generator, load_weights
from maskrestore.utils.errors import ConfigError


def make_mask_generator(config: RunConfig) -> MaskGenerator:
    """The mask generator of these settings, with random weights, on the CPU."""
    return MaskGenerator(
        NUM_CLASSES,
        config.mask_generator.width,
        config.mask_generator.hidden,
        config.data.height_width,
        config.distributed.activation_checkpointing,
        num_further=int(config.mask_generator.start == "prior"),
        sees_image=config.image_channels > 0,
        image_features=config.mask_generator.image_features,
    )


def load_mask_generator(config: RunConfig) -> MaskGenerator:
    """The mask generator that the run has trained, on the CPU. UserError if it does not fit."""
    path = config.run / "mask_generator.pth"
    network = make_mask_generator(config)
    load_into(network, load_weights(path), path)
    return network


def load_frozen_generator(config: RunConfig, device: torch.device) -> nn.Module | None:
    """The image generator of generator.path, frozen, that masks are restored through.

    None for a run that trains the image generator itself or that works without one. Raises
    ConfigError if the run cannot work without one, UserError if the file is no fitting generator.
    """
    path = config.generator.path
    if config.trains_generator:
        return None
    if path is None:
        needed = config.task == "synthesis" or {"perceptual", "l1"} & set(config.terms)
        if needed or (config.trains and config.synthesized_images):
            raise ConfigError(
                f"task={config.task} loss={config.loss} needs an image generator: write "
                "generator.path=FILE (the official latest_net_G.pth, or generator.pth of a run "
                "with task=synthesis)"
            )
        return None
    return freeze(config, load_spade_generator(path, config.data.height_width, NUM_CLASSES), device)


def load_trained_generator(config: RunConfig, device: torch.device) -> nn.Module:
    """The image generator that the run itself has trained, frozen. UserError if it does not fit."""
    path = config.run / "generator.pth"
    return freeze(config, load_spade_generator(path, config.data.height_width, NUM_CLASSES), device)


def freeze(config: RunConfig, generator: SPADEGenerator, device: torch.device) -> nn.Module:
    """A frozen copy of the generator on `device`, in distributed.frozen_precision."""
    frozen = FrozenGenerator(generator, config.distributed.activation_checkpointing)
    return in_precision(frozen.to(device), config.distributed.frozen_precision)
