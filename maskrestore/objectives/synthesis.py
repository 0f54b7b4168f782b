"""The training of an image generator, after SPADE: two phases, discriminator and generator."""

from collections import deque

import torch
from torch import Tensor, nn

from maskrestore.config.run import RunConfig
from maskrestore.data.loader import Batch
from maskrestore.data.segmap import generator_input, one_hot, to_unit_range
from maskrestore.models.discriminator import MultiscaleDiscriminator
from maskrestore.models.perceptual import PerceptualLoss
from maskrestore.models.spade import SPADEGenerator
from maskrestore.objectives.gan_losses import (
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from maskrestore.objectives.objective import Objective, Phase


class Synthesis(Objective):
    """Trains an image generator as SPADE does: hinge GAN, feature matching, perceptual loss."""

    def __init__(self, config: RunConfig, perceptual_loss: PerceptualLoss | None) -> None:
        super().__init__(perceptual=perceptual_loss.distances if perceptual_loss else None)
        self.config = config
        self.perceptual_loss = perceptual_loss
        shape = config.generator
        num_channels = config.data.labels.num_classes + 2
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
        segmap = one_hot(batch.fine, self.config.data.labels.num_classes)
        segmap = generator_input(segmap, "instance", batch.instance)
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
