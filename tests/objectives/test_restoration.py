"""The method: which terms there are, what they are made of, and what they need."""

import math

import pytest
import torch
from half_networks import plain_perceptual
from label_sets import CITYSCAPES, NUM_CLASSES
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from maskrestore.config.run import load_config
from maskrestore.data.loader import Batch
from maskrestore.data.segmap import generator_input, to_unit_range
from maskrestore.models.frozen import Frozen
from maskrestore.models.generators.image_generator import Form, ImageGenerator
from maskrestore.models.half_precision import HalfPrecision
from maskrestore.models.lite0 import Lite0Features
from maskrestore.models.perceptual import FeatureDistances, PerceptualLoss
from maskrestore.objectives.restoration import Restoration

TERMS = {
    "ce": ("loss=ce",),
    "ce l1": ("loss=ce_l1",),
    "ce perceptual": ("loss=ce_vgg",),
    "ce perceptual l1": ("loss=ce_vgg_l1",),
    "l1": ("loss=ce_l1", "weights.ce=0"),
    "perceptual": ("loss=ce_vgg", "weights.ce=0"),
}


@pytest.fixture(scope="module")
def perceptual_loss() -> PerceptualLoss:
    features = Lite0Features()
    return PerceptualLoss(FeatureDistances(features), features.tap_weights)


def test_perceptual_loss_and_its_gradient_are_those_of_the_formula(
    perceptual_loss: PerceptualLoss,
) -> None:
    torch.manual_seed(0)
    synthesized, real = torch.rand(2, 2, 3, 32, 64) * 2 - 1
    synthesized.requires_grad_()
    plain = plain_perceptual(Lite0Features())(synthesized, real)
    loss = perceptual_loss(synthesized, real)
    assert loss.item() == pytest.approx(plain.item(), rel=1e-5)
    ours, theirs = (torch.autograd.grad(term, synthesized)[0] for term in (loss, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert perceptual_loss(real, real).item() == 0


def test_perceptual_loss_keeps_a_byte_of_each_pair_of_numbers() -> None:
    """Beside what the network itself keeps."""

    class Given(Frozen):
        def forward(self, image: Tensor) -> list[Tensor]:
            return [image]

    kept: list[Tensor] = []
    image, real = torch.rand(2, 1, 3, 32, 64, dtype=torch.bfloat16)
    with saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        [distance] = FeatureDistances(Given())(image.requires_grad_(), real)
    assert distance.dtype == torch.float32
    assert [tensor.dtype for tensor in kept] == [torch.int8]


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

    def forward(self, segmap: Tensor, edges: str, *_: object) -> Tensor:
        self.inputs.append(generator_input(segmap, edges))
        return segmap[:, :3] * 2 - 1


class Constant(nn.Module):
    """Restores the same logits, whatever it sees."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, *_: Tensor) -> Tensor:
        return self.logits


def batch_of(fine: Tensor, image: Tensor) -> Batch:
    return Batch(tuple("ab"[: len(fine)]), image, fine, fine, fine)


def restoration(
    terms: str, perceptual_loss: PerceptualLoss
) -> tuple[dict[str, Tensor], CountingGenerator, Constant, Batch]:
    torch.manual_seed(0)
    words = (*TERMS[terms], "data.size=32x32", "generator.edges=zeros", "mask_generator.width=1")
    generator = CountingGenerator()
    objective = Restoration(load_config(words), generator, perceptual_loss)
    restores = Constant(torch.randn(2, NUM_CLASSES, 32, 32))
    objective.networks["mask_generator"] = restores
    fine = torch.randint(0, NUM_CLASSES, (2, 32, 32))
    batch = batch_of(fine, torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
    return objective.losses(batch), generator, restores, batch


@pytest.mark.parametrize("terms", TERMS)
def test_only_the_active_terms(terms: str, perceptual_loss: PerceptualLoss) -> None:
    losses, generator, *_ = restoration(terms, perceptual_loss)
    assert set(losses) == set(terms.split())
    assert len(generator.inputs) == (terms != "ce")


def test_terms_are_unweighted_and_made_of_the_soft_mask(perceptual_loss: PerceptualLoss) -> None:
    losses, generator, restores, batch = restoration("ce perceptual l1", perceptual_loss)
    soft = restores.logits.detach().softmax(1)
    synthesized, image = soft[:, :3] * 2 - 1, to_unit_range(batch.image)
    torch.testing.assert_close(generator.inputs[0][:, :NUM_CLASSES].detach(), soft)
    assert generator.inputs[0].shape[1] == NUM_CLASSES + 2  # the unused label, the edges
    assert not generator.inputs[0][:, NUM_CLASSES:].any()
    of_truth = soft.gather(1, batch.fine[:, None])
    assert losses["ce"].item() == pytest.approx(-of_truth.log().mean().item(), rel=1e-5)
    assert losses["l1"].item() == pytest.approx((synthesized - image).abs().mean().item())
    assert losses["perceptual"].item() == pytest.approx(perceptual_loss(synthesized, image).item())
    for term in ("perceptual", "l1"):
        (gradient,) = torch.autograd.grad(losses[term], restores.logits, retain_graph=True)
        assert gradient.abs().max() > 0


def test_the_cross_entropy_is_the_mean_over_pixels_in_float32() -> None:
    objective = Restoration(load_config(("loss=ce", "data.size=32x32")), None, None)
    logits = torch.full((1, NUM_CLASSES, 1, 2), -torch.inf)
    logits[0, :2] = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]]).reshape(2, 1, 2)
    fine = torch.tensor([[[0, 1]]])  # probabilities 1/2 and 1/4
    batch = batch_of(fine, torch.zeros(1, 3, 1, 2, dtype=torch.uint8))
    for kind in (torch.float32, torch.bfloat16):
        objective.networks["mask_generator"] = Constant(logits.to(kind))
        loss = objective.losses(batch)["ce"]
        assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, rel=1e-2)
        assert loss.dtype == torch.float32


def test_image_terms_need_their_networks() -> None:
    with pytest.raises(ValueError, match="image generator"):
        Restoration(load_config(TERMS["l1"]), None, None)
    with pytest.raises(ValueError, match="PerceptualLoss"):
        Restoration(load_config(TERMS["perceptual"]), CountingGenerator(), None)


def test_a_frozen_network_in_fp16_is_told_of_steps_that_are_not_finite() -> None:
    """Wherever it stands in what the losses look through."""
    half = HalfPrecision(nn.Conv2d(3, 3, 1), torch.float16)
    door = ImageGenerator(half, Form("SPADE", NUM_CLASSES + 1, True), CITYSCAPES, (32, 32))
    objective = Restoration(load_config(("loss=ce_l1", "data.size=32x32")), door, None)
    before = {name: value.clone() for name, value in half.scaling_state().items()}
    objective.adapt_scaling(torch.tensor(False))
    assert half.exponent == before["exponent"] - 2
    assert objective.scaling_state()["image_generator"]["exponent"] == half.exponent
    objective.load_scaling({"image_generator": before})
    assert half.exponent == before["exponent"]
    assert objective.scales() == {"image_generator": 1.0}
