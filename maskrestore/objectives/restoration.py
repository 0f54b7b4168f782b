"""The method: restore a mask, synthesise its image through the frozen generator, compare both."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.labels import NUM_CLASSES
from maskrestore.data.loader import Batch
from maskrestore.data.sampler import seed_of
from maskrestore.data.segmap import generator_input, relaxed_segmap, to_unit_range
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.perceptual import PerceptualLoss
from maskrestore.objectives.losses import l1_loss, mask_loss
from maskrestore.objectives.objective import Objective, Phase


def restoration_losses(
    terms: Collection[str],
    restored_logits: Tensor,
    label_map: Tensor,
    real_image: Tensor,
    instance: Tensor,
    edges: str,
    image_generator: nn.Module | None,
    perceptual_loss: PerceptualLoss | None,
    relaxation: str = "softmax",
    seeds: Sequence[int] = (),
) -> dict[str, Tensor]:
    """The active ones of ce, perceptual and l1, unweighted: L_mask and the parts of L_image.

    terms: names of the active terms (RunConfig.terms). restored_logits [B,C,H,W], label_map and
    instance int64 [B,H,W], real_image [B,3,H,W] in [-1,1]; edges as in segmap.generator_input,
    relaxation and seeds as in segmap.relaxed_segmap.
    image_generator is not run, and may be None, where only ce is active; perceptual_loss may be
    None where perceptual is not.
    """
    losses = {}
    if "ce" in terms:
        losses["ce"] = mask_loss(restored_logits, label_map)
    if "perceptual" not in terms and "l1" not in terms:
        return losses
    if image_generator is None:
        raise ValueError("perceptual and l1 need an image generator")
    if "perceptual" in terms and perceptual_loss is None:
        raise ValueError("the term perceptual needs a PerceptualLoss")
    # The frozen networks have a precision of their own (models/half.py).
    with torch.autocast(real_image.device.type, enabled=False):
        restored_segmap = relaxed_segmap(restored_logits, relaxation, seeds)
        synthesized_image = image_generator(generator_input(restored_segmap, edges, instance))
        if perceptual_loss is not None and "perceptual" in terms:
            losses["perceptual"] = perceptual_loss(synthesized_image, real_image)
        if "l1" in terms:
            losses["l1"] = l1_loss(synthesized_image, real_image)
    return losses


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
