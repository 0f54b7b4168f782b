"""The terms of the losses, unweighted. They are summed where they are used, by configuration."""

from collections.abc import Collection, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.segmap import generator_input, relaxed_segmap


def mask_loss(restored_logits: Tensor, label_map: Tensor) -> Tensor:
    """L_mask = CE(r, x): logits [B,C,H,W], int64 [B,H,W] -> scalar, mean over all pixels, nats."""
    return F.cross_entropy(restored_logits.float(), label_map)


def l1_loss(synthesized_image: Tensor, real_image: Tensor) -> Tensor:
    """L_1(s, y): mean absolute difference of two images [B,3,H,W] in [-1,1] -> scalar 0..2."""
    return F.l1_loss(synthesized_image.float(), real_image)


class PerceptualLoss(nn.Module):
    """L_VGG(s, y): the taps of a frozen network compared by weighted mean absolute difference."""

    def __init__(self, features: nn.Module, tap_weights: Sequence[float]) -> None:
        super().__init__()
        self.features, self.tap_weights = features, tap_weights

    def forward(self, synthesized_image: Tensor, real_image: Tensor) -> Tensor:
        """Two images [B,3,H,W] in [-1,1] -> scalar; only the first one gets a gradient."""
        with torch.no_grad():
            real = self.features(real_image)
        total = torch.zeros((), device=synthesized_image.device)
        for weight, tap, target in zip(
            self.tap_weights, self.features(synthesized_image), real, strict=True
        ):
            total = total + weight * F.l1_loss(tap.float(), target.float())
        return total


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


# The GAN losses of SPADE. Each takes what MultiscaleDiscriminator returns: for each scale the list
# of its feature maps, the logits last; each is a mean over scales.

Scales = list[list[Tensor]]


def hinge_discriminator_loss(real: Scales, fake: Scales) -> Tensor:
    """mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)) -> scalar."""
    parts = [
        F.relu(1 - of_real[-1].float()).mean() + F.relu(1 + of_fake[-1].float()).mean()
        for of_real, of_fake in zip(real, fake, strict=True)
    ]
    return torch.stack(parts).mean()


def hinge_generator_loss(fake: Scales) -> Tensor:
    """- mean D(fake) -> scalar."""
    return torch.stack([-of_fake[-1].float().mean() for of_fake in fake]).mean()


def feature_matching_loss(fake: Scales, real: Scales) -> Tensor:
    """Sum over layers, logits left out, of the mean absolute difference -> scalar.

    `real` is a constant here: it gets no gradient.
    """
    parts = [
        torch.stack(
            [
                F.l1_loss(of_fake.float(), of_real.detach().float())
                for of_fake, of_real in zip(fake_layers[:-1], real_layers[:-1], strict=True)
            ]
        ).sum()
        for fake_layers, real_layers in zip(fake, real, strict=True)
    ]
    return torch.stack(parts).mean()
