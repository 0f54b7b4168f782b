"""What a task trains: its networks, and the loss terms of each optimizer step.

A phase is one optimizer step on one batch. Restoring has one, an image generator's training two.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskrestore.config import RunConfig
from maskrestore.data import Batch
from maskrestore.degrade import degrade, mask_generator_input
from maskrestore.labels import NUM_CLASSES
from maskrestore.losses import (
    PerceptualLoss,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    restoration_losses,
)
from maskrestore.models.discriminator import MultiscaleDiscriminator
from maskrestore.models.half import HalfPrecision, in_precision
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.perceptual import make_features
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.winograd import use_winograd
from maskrestore.order import seed_of
from maskrestore.segmap import generator_input, one_hot, to_unit_range


@dataclass(frozen=True)
class Phase:
    """One optimizer step: `network` takes a step of `learning_rate` on sum(weights * losses)."""

    network: str
    learning_rate: float
    betas: tuple[float, float]
    weights: dict[str, float]
    losses: Callable[[Batch], dict[str, Tensor]]


class Objective:
    """What a task trains, and the frozen networks that its losses look through.

    This one trains nothing, for loss=none.
    """

    def __init__(self, **looked_through: nn.Module | None) -> None:
        self.networks: dict[str, nn.Module] = {}
        self.frozen = {name: net for name, net in looked_through.items() if net is not None}
        self._scaled = {
            name: network
            for name, network in self.frozen.items()
            if isinstance(network, HalfPrecision)
        }

    def phases(self) -> list[Phase]:
        """The optimizer steps on each batch, in their order."""
        return []

    def adapt_scaling(self, finite: Tensor) -> None:
        """Tell the frozen half-precision networks whether the step's gradient was finite (bool,
        0-dim, the same on every process)."""
        for network in self._scaled.values():
            network.update(finite)

    def scaling_state(self) -> dict[str, dict[str, Tensor]]:
        """What their gradient scaling goes on from, for the checkpoint."""
        return {name: network.scaling_state() for name, network in self._scaled.items()}

    def load_scaling(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from `scaling_state`, as far as there is one."""
        for name in self._scaled.keys() & state.keys():
            self._scaled[name].load_scaling_state(state[name])

    def scales(self) -> dict[str, float]:
        """The factor that each last put on its gradient. Waits for the device."""
        return {name: float(network.scale) for name, network in self._scaled.items()}


class Restoration(Objective):
    """L_total = L_mask + L_image (Ahn & Sull 2021): trains the mask generator alone.

    The image generator and the perceptual network are frozen, and run only for the terms that need
    them.
    """

    def __init__(
        self,
        config: RunConfig,
        image_generator: nn.Module | None,
        perceptual_loss: PerceptualLoss | None,
    ) -> None:
        features = perceptual_loss.features if perceptual_loss else None
        super().__init__(image_generator=image_generator, perceptual=features)
        self.config = config
        self.image_generator = image_generator
        self.perceptual_loss = perceptual_loss
        shape = config.mask_generator
        self.networks = {
            "mask_generator": MaskGenerator(
                NUM_CLASSES,
                shape.width,
                shape.hidden,
                config.data.height_width,
                config.distributed.activation_checkpointing,
                config.image_channels,
            )
        }

    def phases(self) -> list[Phase]:
        """The one optimizer step."""
        training = self.config.training
        terms = self.config.terms
        return [Phase("mask_generator", training.learning_rate, training.betas, terms, self.losses)]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted terms ce, perceptual, l1, those that are active; float scalars."""
        degraded, valid = degrade(self.config, batch.fine, batch.coarse)
        seen = mask_generator_input(self.config, degraded, valid, batch.image)
        return restoration_losses(
            self.config.terms,
            self.networks["mask_generator"](*seen),
            batch.fine,
            to_unit_range(batch.image),
            batch.instance,
            self.config.generator.edges,
            self.image_generator,
            self.perceptual_loss,
            self.config.relaxation,
            [seed_of("gumbel", self.config.seed, position) for position in batch.positions],
        )


class Synthesis(Objective):
    """Trains an image generator as SPADE does: hinge GAN, feature matching, perceptual loss."""

    def __init__(self, config: RunConfig, perceptual_loss: PerceptualLoss | None) -> None:
        super().__init__(perceptual=perceptual_loss.features if perceptual_loss else None)
        self.config = config
        self.perceptual_loss = perceptual_loss
        shape = config.generator
        num_channels = NUM_CLASSES + 2
        self.networks = {
            "generator": SPADEGenerator(
                num_channels, shape.width, shape.hidden, config.data.height_width
            ),
            "discriminator": MultiscaleDiscriminator(num_channels + 3, shape.discriminator_width),
        }
        # The generator's phase looks through the discriminator without training it, so it uses the
        # bare module: a distributed wrapper would wait for gradients that never come.
        self._bare_discriminator = self.networks["discriminator"]
        self._synthesized: deque[Tensor] = deque()  # one of each part of the batch

    def phases(self) -> list[Phase]:
        """Generator, then discriminator (two time-scale update rule, Adam betas 0, 0.9)."""
        shape, weights = self.config.generator, self.config.weights
        generator = {
            "gan": 1.0,
            "feature_matching": weights.feature_matching,
            "perceptual": weights.synthesis_perceptual,
        }
        betas = (0.0, 0.9)
        return [
            Phase("generator", shape.learning_rate, betas, generator, self.generator_losses),
            Phase(
                "discriminator",
                shape.discriminator_learning_rate,
                betas,
                {"discriminator": 1.0},
                self.discriminator_losses,
            ),
        ]

    def generator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Unweighted terms gan, feature_matching, perceptual; float scalars."""
        segmap, real_image = self._inputs(batch)
        synthesized = self.networks["generator"](segmap)
        self._synthesized.append(synthesized.detach())
        discriminator = self._bare_discriminator.requires_grad_(False)
        fake, real = _discriminate(discriminator, segmap, synthesized, real_image)
        losses = {"gan": hinge_generator_loss(fake)}
        if self.config.weights.feature_matching > 0:
            losses["feature_matching"] = feature_matching_loss(fake, real)
        if self.perceptual_loss is not None:
            with torch.autocast(real_image.device.type, enabled=False):
                losses["perceptual"] = self.perceptual_loss(synthesized.float(), real_image)
        discriminator.requires_grad_(True)
        return losses

    def discriminator_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The hinge loss on the images that the generator's phase has just synthesised."""
        segmap, real_image = self._inputs(batch)
        synthesized = self._synthesized.popleft()
        fake, real = _discriminate(self.networks["discriminator"], segmap, synthesized, real_image)
        return {"discriminator": hinge_discriminator_loss(real, fake)}

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        segmap = generator_input(one_hot(batch.fine), "instance", batch.instance)
        return segmap, to_unit_range(batch.image)


Features = list[list[Tensor]]


def _discriminate(
    discriminator: nn.Module, segmap: Tensor, synthesized: Tensor, real_image: Tensor
) -> tuple[Features, Features]:
    """Features of the synthesised and of the real images, seen in one batch as SPADE does."""
    images = torch.cat([synthesized, real_image.to(synthesized.dtype)])
    features = discriminator(torch.cat([torch.cat([segmap, segmap]), images], dim=1))
    half = len(synthesized)
    fake = [[layer[:half] for layer in scale] for scale in features]
    real = [[layer[half:] for layer in scale] for scale in features]
    return fake, real


def make_objective(
    config: RunConfig, image_generator: nn.Module | None, device: torch.device
) -> Objective:
    """What the task trains; the perceptual network is loaded only if a term needs it."""
    needed = "perceptual" in config.terms
    if config.trains_generator:
        needed = config.weights.synthesis_perceptual > 0
    perceptual_loss = None
    if needed:
        features = make_features(config.perceptual).to(device)
        # Lite0 stays in float32: it is small, and in bf16 rounding leaves its gradient a cosine of
        # 0.3 to 0.9 to the true one.
        lite0 = config.perceptual.network == "lite0"
        precision = "fp32" if lite0 else config.distributed.frozen_precision
        perceptual_loss = PerceptualLoss(in_precision(features, precision), features.tap_weights)
    # Only now: whatever else the run is made of, the same seed gives the same first weights.
    torch.manual_seed(config.seed)
    if not config.trains:
        return Objective()
    objective: Objective
    if config.trains_generator:
        objective = Synthesis(config, perceptual_loss)
    else:
        objective = Restoration(config, image_generator, perceptual_loss)
    if config.distributed.precision == "winograd":
        for network in objective.networks.values():
            use_winograd(network)
    return objective
