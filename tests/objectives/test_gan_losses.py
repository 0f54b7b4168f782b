"""The GAN losses of SPADE, in numbers."""

import pytest
import torch
from torch import Tensor

from maskrestore.models.discriminator import MultiscaleDiscriminator
from maskrestore.objectives.gan_losses import (
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
)


def scales(*logits: list[float]) -> list[list[Tensor]]:
    return [[torch.zeros(1), torch.tensor(values)] for values in logits]


def test_hinge_losses() -> None:
    real, fake = scales([2.0, 0.0], [0.5]), scales([-3.0, 1.0], [0.0])
    # scale 1: mean(0, 1) + mean(0, 2) = 1.5; scale 2: 0.5 + 1 = 1.5
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(1.5)
    assert hinge_generator_loss(fake).item() == pytest.approx((1.0 + 0.0) / 2)


def test_feature_matching_leaves_the_logits_out() -> None:
    fake = [[torch.tensor([1.0]), torch.tensor([2.0, 4.0]), torch.tensor([9.0])]] * 2
    real = [[torch.tensor([0.0]), torch.tensor([2.0, 2.0]), torch.tensor([-9.0])]] * 2
    assert feature_matching_loss(fake, real).item() == pytest.approx(1 + 1)


def test_discriminator_feeds_the_losses() -> None:
    torch.manual_seed(0)
    discriminator = MultiscaleDiscriminator(39, 4)
    fake_input = torch.rand(2, 39, 64, 128, requires_grad=True)
    real, fake = discriminator(torch.rand(2, 39, 64, 128)), discriminator(fake_input)
    assert [[feature.shape[1] for feature in scale] for scale in fake] == [[4, 8, 16, 32, 1]] * 2
    assert [scale[0].shape[2:] for scale in fake] == [(33, 65), (17, 33)]
    loss = hinge_generator_loss(fake) + feature_matching_loss(fake, real)
    loss.backward()
    assert fake_input.grad is not None
    assert fake_input.grad.abs().max() > 0
    before = hinge_discriminator_loss(real, fake).item()
    assert before == pytest.approx(2, abs=0.5)
    optimizer = torch.optim.Adam(discriminator.parameters(), 4e-3, betas=(0.0, 0.9))
    images = torch.rand(2, 39, 64, 128), torch.rand(2, 39, 64, 128) - 1
    for _ in range(10):
        optimizer.zero_grad()
        loss = hinge_discriminator_loss(*(discriminator(image) for image in images))
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.75 * before
