"""The GAN losses of SPADE, unweighted.

Each takes what MultiscaleDiscriminator returns: for each scale the list of its feature maps, the
logits last; each is a mean over scales.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

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
