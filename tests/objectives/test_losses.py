import math

import pytest
import torch
from torch import Tensor, nn

from maskrestore.models.discriminator import MultiscaleDiscriminator
from maskrestore.models.perceptual import TAP_WEIGHTS, Lite0Features, PerceptualLoss
from maskrestore.objectives.losses import (
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    l1_loss,
    mask_loss,
)
from maskrestore.objectives.restoration import restoration_losses


def test_mask_loss_is_the_mean_over_pixels() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]).reshape(1, 2, 1, 2)
    label_map = torch.tensor([[[0, 1]]])  # probabilities 1/2 and 1/4
    assert mask_loss(logits, label_map).item() == pytest.approx((math.log(2) + math.log(4)) / 2)
    assert mask_loss(logits.bfloat16(), label_map).dtype == torch.float32


def test_l1_loss() -> None:
    synthesized = torch.tensor([-1.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
    real = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 3, 1, 1)
    assert l1_loss(synthesized, real).item() == pytest.approx(1.0)


@pytest.fixture(scope="module")
def perceptual_loss() -> PerceptualLoss:
    features = Lite0Features()
    return PerceptualLoss(features, features.tap_weights)


def test_perceptual_loss_weighs_the_taps(perceptual_loss: PerceptualLoss) -> None:
    torch.manual_seed(0)
    synthesized, real = torch.rand(2, 2, 3, 32, 64) * 2 - 1
    of_synthesized = perceptual_loss.features(synthesized)
    of_real = perceptual_loss.features(real)
    expected = sum(
        weight * (a - b).abs().mean().item()
        for weight, a, b in zip(TAP_WEIGHTS, of_synthesized, of_real, strict=True)
    )
    assert perceptual_loss(synthesized, real).item() == pytest.approx(expected, rel=1e-5)
    assert perceptual_loss(real, real).item() == 0


def test_perceptual_loss_moves_only_the_synthesized_image(perceptual_loss: PerceptualLoss) -> None:
    torch.manual_seed(0)
    synthesized, real = (torch.rand(1, 3, 32, 32, requires_grad=True) for _ in range(2))
    perceptual_loss(synthesized, real).backward()
    assert synthesized.grad is not None
    assert synthesized.grad.abs().max() > 0
    assert real.grad is None


class CountingGenerator(nn.Module):
    """The first three classes as colours; counts its calls and keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, segmap: Tensor) -> Tensor:
        self.inputs.append(segmap)
        return segmap[:, :3] * 2 - 1


def restoration(
    terms: tuple[str, ...], perceptual_loss: PerceptualLoss
) -> tuple[dict[str, Tensor], CountingGenerator, Tensor]:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 32, 32, requires_grad=True)
    label_map = torch.randint(0, 4, (2, 32, 32))
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    generator = CountingGenerator()
    losses = restoration_losses(
        terms, logits, label_map, image, label_map, "zeros", generator, perceptual_loss
    )
    return losses, generator, logits


def test_only_the_active_terms(perceptual_loss: PerceptualLoss) -> None:
    for terms, calls in (
        (("ce",), 0),
        (("ce", "l1"), 1),
        (("ce", "perceptual"), 1),
        (("ce", "perceptual", "l1"), 1),
        (("l1",), 1),
        ((), 0),
    ):
        losses, generator, _ = restoration(terms, perceptual_loss)
        assert set(losses) == set(terms)
        assert len(generator.inputs) == calls


def test_terms_are_unweighted_and_made_of_the_soft_mask(perceptual_loss: PerceptualLoss) -> None:
    losses, generator, logits = restoration(("ce", "perceptual", "l1"), perceptual_loss)
    torch.manual_seed(0)
    torch.randn(2, 4, 32, 32)
    label_map = torch.randint(0, 4, (2, 32, 32))
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    soft = logits.detach().softmax(1)
    synthesized = soft[:, :3] * 2 - 1
    torch.testing.assert_close(generator.inputs[0][:, :4].detach(), soft)
    assert generator.inputs[0].shape[1] == 6  # 4 classes, the unused label, the edges
    assert not generator.inputs[0][:, 4:].any()
    assert losses["ce"].item() == pytest.approx(mask_loss(logits, label_map).item())
    assert losses["l1"].item() == pytest.approx((synthesized - image).abs().mean().item())
    assert losses["perceptual"].item() == pytest.approx(perceptual_loss(synthesized, image).item())
    for term in ("perceptual", "l1"):
        (gradient,) = torch.autograd.grad(losses[term], logits, retain_graph=True)
        assert gradient.abs().max() > 0


def test_image_terms_need_their_networks() -> None:
    logits, label_map = torch.zeros(1, 4, 32, 32), torch.zeros(1, 32, 32, dtype=torch.int64)
    image = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="image generator"):
        restoration_losses(["l1"], logits, label_map, image, label_map, "zeros", None, None)
    with pytest.raises(ValueError, match="PerceptualLoss"):
        restoration_losses(
            ["perceptual"], logits, label_map, image, label_map, "zeros", CountingGenerator(), None
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
