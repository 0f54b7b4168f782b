"""The method of Ahn & Sull, "Semantic Segmentation Restoration Using Pretrained Image Synthesis
Model".

A mask generator restores a damaged mask. It is trained on the mask, and through a frozen image
generator G on the picture that the restored mask stands for:

    x  the true mask                      y  the real image
    r  the restored mask, as class        s = G(r)  the image synthesised from it
       probabilities

    L_mask  = CE(r, x)                    L_image = L_VGG(s, y) + L_1(s, y)
    L_total = L_mask + L_image

Beside them, at weights that are 0 in the paper's rows: classes that count otherwise than by their
pixels (objectives/class_balance.py), and a stand-in for the IoU (objectives/lovasz.py).

G and the network of L_VGG never change: their gradient is passed on to r and not kept. A term whose
weight is 0 is not computed, and G does not run for the cross entropy alone.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.config.labels import UNANNOTATED
from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.loader import Batch, sent
from maskrestore.data.manifest import read_manifest
from maskrestore.data.sampler import seed_of
from maskrestore.data.segmap import one_hot, relaxed_segmap, to_uint8, to_unit_range
from maskrestore.models.build import make_mask_generator
from maskrestore.models.perceptual import PerceptualLoss
from maskrestore.objectives.class_balance import class_weights
from maskrestore.objectives.image_terms import are_due, balanced, open_to_change
from maskrestore.objectives.lovasz import lovasz_softmax
from maskrestore.objectives.objective import Objective, Phase
from maskrestore.objectives.targets import Teacher, target_of


class Restoration(Objective):
    """Trains the mask generator alone, with the terms of RunConfig.terms.

    Raises ValueError if a term needs a network that is not given.
    """

    def __init__(
        self,
        config: RunConfig,
        image_generator: nn.Module | None,
        perceptual_loss: PerceptualLoss | None,
        teacher: Teacher | None = None,
    ) -> None:
        distances = perceptual_loss.distances if perceptual_loss else None
        super().__init__(image_generator=image_generator, perceptual=distances, teacher=teacher)
        self.teacher = teacher
        self.config, self.terms = config, config.terms
        if image_generator is None and {"perceptual", "l1"} & self.terms.keys():
            raise ValueError("perceptual and l1 need an image generator")
        if perceptual_loss is None and "perceptual" in self.terms:
            raise ValueError("the term perceptual needs a PerceptualLoss")
        self.image_generator, self.perceptual_loss = image_generator, perceptual_loss
        self.class_weights: Tensor | None = None
        self.classes = torch.tensor([], dtype=torch.int64)  # that training masks have
        if config.weights.class_balance or config.weights.lovasz:
            train = read_manifest(config.data.shards)["splits"]["train"]
            pixels = list(train["class_pixels"])
            if not config.data.labels.has_unlabeled_class:
                pixels[UNANNOTATED] = 0
            self.classes = torch.tensor(pixels).nonzero().flatten()
            if config.weights.class_balance:
                self.class_weights = class_weights(pixels, config.weights.class_balance)
        self.networks = {"mask_generator": make_mask_generator(config)}

    def phases(self) -> list[Phase]:
        """The one optimizer step."""
        training = self.config.training
        return [
            Phase("mask_generator", training.learning_rate, training.betas, self.terms, self.losses)
        ]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The active ones of ce (nats), lovasz (0..1), perceptual and l1 (0..2), unweighted:
        float32 scalars, each a mean over the batch, and over all pixels but for lovasz."""
        config, losses = self.config, {}
        damaged, valid = degrade(config, batch.fine, batch.coarse)
        shown = mask_generator_input(config, damaged, valid, self.seen_image(batch))
        mask_logits: Tensor = self.networks["mask_generator"](*shown)  # [B,C,H,W]
        image_logits, image_loss = mask_logits, config.image_loss
        if image_loss.gradient:
            mask_logits, image_logits = balanced(mask_logits, image_loss.gradient)
        if {"ce", "lovasz"} & self.terms.keys():
            target = target_of(config, batch, self.teacher)  # int64 [B,H,W]
        if "ce" in self.terms:
            losses["ce"] = self.cross_entropy(mask_logits, target)
        if "lovasz" in self.terms:
            losses["lovasz"] = self.lovasz(mask_logits, target)
        image_terms = [name for name in ("perceptual", "l1") if name in self.terms]
        if self.image_generator is None or not image_terms:
            return losses
        if not are_due(config, batch):
            return losses | dict.fromkeys(image_terms, torch.zeros((), device=batch.image.device))
        if image_loss.pixels == "unannotated":
            image_logits = open_to_change(image_logits, valid)
        real_image = to_unit_range(batch.image)  # [B,3,H,W] in [-1,1]
        seeds = [seed_of("gumbel", config.seed, position) for position in batch.positions]
        # The frozen networks have a precision of their own (models/half_precision.py).
        with torch.autocast(batch.image.device.type, enabled=False):
            restored = relaxed_segmap(image_logits, config.relaxation, seeds)
            synthesized_image = self.image_generator(
                restored, config.generator.edges, batch.instance, batch.keys, batch.image
            )
            if self.perceptual_loss is not None and "perceptual" in self.terms:
                losses["perceptual"] = self.perceptual_loss(synthesized_image, real_image)
            if "l1" in self.terms:
                losses["l1"] = F.l1_loss(synthesized_image.float(), real_image)
        return losses

    def cross_entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Of float [B,C,H,W] with the masks of RunConfig.target, a mean over all their pixels, in
        nats: also over those that do not count, so that unlike a weighted mean it is the same
        however a batch is split among processes."""
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(target.device)  # copied once
        # Its own sum over a map adds in no order on a GPU (distributed.deterministic).
        losses = F.cross_entropy(logits.float(), target, self.class_weights, reduction="none")
        return self._of_those_with_a_mask(losses.sum() / target.numel())

    def lovasz(self, logits: Tensor, target: Tensor) -> Tensor:
        """The Lovász-Softmax of the same, a mean over the images."""
        self.classes = self.classes.to(target.device)  # copied once
        losses = lovasz_softmax(logits.float().softmax(1), target, self.classes)
        return self._of_those_with_a_mask(losses.mean())

    def _of_those_with_a_mask(self, mean: Tensor) -> Tensor:
        return 2 * mean if self.config.data.num_true_masks else mean  # half of them have one

    def seen_image(self, batch: Batch) -> Tensor:
        """uint8 [B,3,H,W]: the real images, some of them as drawn from their true masks."""
        config, image = self.config, batch.image
        if not config.synthesized_images or self.image_generator is None:
            return image
        drawn = [
            seed_of("synthesized", config.seed, position) % 1000 < 1000 * config.synthesized_images
            for position in batch.positions
        ]
        if not any(drawn):
            return image
        chosen = sent(torch.tensor(drawn), image.device)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            segmap = one_hot(batch.fine, config.data.labels.num_classes)
            drawn_image = self.image_generator(
                segmap, "instance", batch.instance, batch.keys, image
            )
        return torch.where(chosen[:, None, None, None], to_uint8(drawn_image), image)
