"""Networks made from settings and files: the mask generator and the frozen image generator."""

import torch

from maskrestore.config.run import RunConfig
from maskrestore.models.frozen import FrozenGenerator
from maskrestore.models.generators.files import GeneratorFile, read_generator
from maskrestore.models.generators.image_generator import Form, ImageGenerator
from maskrestore.models.generators.style import StyleEncoder, load_style_encoder
from maskrestore.models.half_precision import in_precision
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import load_into, load_weights
from maskrestore.utils.errors import ConfigError, UserError


def make_mask_generator(config: RunConfig) -> MaskGenerator:
    """The mask generator of these settings, with random weights, on the CPU."""
    return MaskGenerator(
        config.data.labels.num_classes,
        config.mask_generator.width,
        config.mask_generator.hidden,
        config.data.network_size,
        config.distributed.activation_checkpointing,
        num_further=int(config.mask_generator.start == "prior"),
        sees_image=config.image_channels > 0,
        image_features=config.mask_generator.image_features,
        restores_0=config.data.labels.has_unlabeled_class,
    )


def load_mask_generator(config: RunConfig) -> MaskGenerator:
    """The mask generator that the run has trained, on the CPU. UserError if it does not fit."""
    path = config.run / "mask_generator.pth"
    network = make_mask_generator(config)
    load_into(network, load_weights(path), path)
    return network


def load_frozen_generator(config: RunConfig, device: torch.device) -> ImageGenerator | None:
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
                "generator.path=FILE (an official one of docs/generators.md, or generator.pth of a "
                "run with task=synthesis)"
            )
        return None
    return _made(config, read_generator(path, config.data.labels), device)


def load_trained_generator(config: RunConfig, device: torch.device) -> ImageGenerator:
    """The image generator that the run itself has trained, frozen. UserError if it does not fit."""
    return _made(config, read_generator(config.run / "generator.pth", config.data.labels), device)


def freeze(config: RunConfig, generator: SPADEGenerator, device: torch.device) -> ImageGenerator:
    """A frozen copy of a generator that is being trained, on `device`, in
    distributed.frozen_precision."""
    frozen = FrozenGenerator(generator, config.distributed.activation_checkpointing)
    network = in_precision(frozen.to(device), config.distributed.frozen_precision)
    labels = config.data.labels
    form = Form("SPADE", labels.num_classes + 1, wants_edges=True)
    return ImageGenerator(network, form, labels, generator.size).to(device)


def _made(config: RunConfig, file: GeneratorFile, device: torch.device) -> ImageGenerator:
    """The image generator of a file, frozen, as the settings want it. UserError where it does not
    fit them."""
    form, size = file.form, config.generator.size_for(config.data.height_width)
    if not form.takes(size):
        sizes = ", ".join(f"{height}x{width}" for height, width in form.nearest(size))
        raise UserError(
            f"generator.path={file.path}: this {form.kind} generator draws no pictures of "
            f"{size[0]}x{size[1]} pixels: write generator.size=HxW, the nearest being {sizes}"
        )
    style: int | StyleEncoder | None = None
    if config.generator.style != "zero":
        if not form.style_size:
            raise UserError(
                f"generator.style={config.generator.style}: this {form.kind} generator has no "
                "style; leave it out"
            )
        style, encoder = config.seed, config.generator.style_encoder
        if encoder is not None and form.kind != "CC-FPSE":
            raise UserError(
                f"generator.style={encoder}: only CC-FPSE was trained with a style encoder, and "
                f"this generator is of {form.kind}: write zero or seed"
            )
        if encoder is not None:
            style = load_style_encoder(encoder, form.style_size).to(device)
    network = file.make(size, config.distributed.activation_checkpointing, style is not None)
    network = network.requires_grad_(False).to(device)
    network = in_precision(network, config.distributed.frozen_precision)
    return ImageGenerator(network, form, config.data.labels, size, style).to(device)
