"""When, where and how much the image terms count, and few true masks beside many images."""

import pytest
import torch
from label_sets import NUM_CLASSES
from torch import Tensor, nn

from maskrestore.config.run import load_config
from maskrestore.data.loader import Batch
from maskrestore.models.lite0 import Lite0Features
from maskrestore.models.perceptual import FeatureDistances, PerceptualLoss
from maskrestore.objectives.restoration import Restoration
from maskrestore.utils.errors import ConfigError

WORDS = ("data.size=32x32", "mask_generator.width=1", "mask_generator.hidden=2")
IMAGE_TERMS = ("perceptual", "l1")


class Colors(nn.Module):
    """The first three classes as colours."""

    def forward(self, segmap: Tensor, *_: object) -> Tensor:
        return segmap[:, :3] * 2 - 1


class Given(nn.Module):
    """Restores the rows of its logits that belong to the images of a batch."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.logits = nn.Parameter(torch.randn(4, NUM_CLASSES, 32, 32, generator=draw))
        self.rows = slice(0, 4)

    def forward(self, *_: Tensor) -> Tensor:
        return self.logits[self.rows]


def batch_of(first: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(1)
    fine = torch.randint(1, NUM_CLASSES, (4, 32, 32), generator=draw)
    coarse = fine.clone()
    coarse[:, :, 10:] = 0
    image = torch.randint(0, 256, (4, 3, 32, 32), generator=draw, dtype=torch.uint8)
    positions = tuple(range(first, first + 4))
    return Batch(tuple("abcd"), image, fine, coarse, fine, positions, ("task",) * 4)


def objective_of(*words: str) -> tuple[Restoration, Given]:
    features = Lite0Features()
    perceptual = PerceptualLoss(FeatureDistances(features), features.tap_weights)
    objective = Restoration(load_config([*WORDS, *words]), Colors(), perceptual)
    restores = Given()
    objective.networks["mask_generator"] = restores
    return objective, restores


def gradients(objective: Restoration, restores: Given, batch: Batch) -> dict[str, Tensor]:
    """Of each weighted term at the logits."""
    [phase] = objective.phases()
    losses = phase.losses(batch)
    return {
        name: torch.autograd.grad(phase.weights[name] * loss, restores.logits, retain_graph=True)[0]
        for name, loss in losses.items()
        if loss.requires_grad
    }


def total_gradient(objective: Restoration, restores: Given, batch: Batch) -> Tensor:
    [phase] = objective.phases()
    losses = phase.losses(batch)
    total = torch.stack([phase.weights[name] * loss for name, loss in losses.items()]).sum()
    (gradient,) = torch.autograd.grad(total, restores.logits)
    return gradient


def test_image_terms_begin_where_they_are_told_and_cost_nothing_before() -> None:
    words = ("image_loss.start=0.5", "training.num_images=32", "training.batch_size=4")
    objective, restores = objective_of(*words)
    painter, calls = Colors(), []
    painter.register_forward_hook(lambda *_: calls.append(1))
    objective.image_generator = painter
    early = objective.losses(batch_of(12))
    assert not calls
    assert [early[name].item() for name in IMAGE_TERMS] == [0, 0]
    assert torch.equal(
        total_gradient(objective, restores, batch_of(12)),
        gradients(objective, restores, batch_of(12))["ce"],
    )
    late = objective.losses(batch_of(16))
    assert calls
    plain = objective_of()[0].losses(batch_of(16))
    assert {name: loss.item() for name, loss in late.items()} == {
        name: loss.item() for name, loss in plain.items()
    }


def test_they_begin_at_the_same_step_however_it_is_split() -> None:
    words = ("image_loss.start=0.25", "training.num_images=24", "training.batch_size=4")
    objective, restores = objective_of(*words)  # image 6, in the middle of a step
    for first, is_due in ((4, False), (8, True)):
        for number, part in enumerate(batch_of(first).split(4)):
            restores.rows = slice(number, number + 1)
            assert bool(objective.losses(part)["l1"]) == is_due


def test_where_somebody_annotated_nothing_changes() -> None:
    objective, restores = objective_of("image_loss.pixels=unannotated")
    batch = batch_of()
    of = gradients(objective, restores, batch)
    everywhere = gradients(*objective_of(), batch)
    valid = (batch.coarse != 0)[:, None].expand_as(restores.logits)
    for name in IMAGE_TERMS:
        assert of[name][valid].abs().max() == 0
        torch.testing.assert_close(of[name][~valid], everywhere[name][~valid])
        assert everywhere[name][valid].abs().max() > 0
    assert torch.equal(of["ce"], everywhere["ce"])


def test_the_image_gradient_is_as_long_as_it_is_told_of_each_sample() -> None:
    batch = batch_of()
    plain, restores = objective_of()
    of = gradients(plain, restores, batch)
    image = of["perceptual"] + of["l1"]
    ratio = 0.5 * of["ce"].flatten(1).norm(dim=1) / image.flatten(1).norm(dim=1)
    expected = of["ce"] + ratio[:, None, None, None] * image
    balanced, restores = objective_of("image_loss.gradient=0.5")
    whole = total_gradient(balanced, restores, batch)
    torch.testing.assert_close(whole, expected)
    assert not torch.allclose(whole, of["ce"] + image)

    parts = []
    for number, part in enumerate(batch.split(4)):  # of other processes: a quarter of the mean
        restores.rows = slice(number, number + 1)
        parts.append(total_gradient(balanced, restores, part) / 4)
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)


def test_an_image_without_a_gradient_leaves_the_mask_its_own() -> None:
    class Blank(nn.Module):
        def forward(self, segmap: Tensor, *_: object) -> Tensor:
            return segmap[:, :3] * 0

    objective, restores = objective_of("loss=ce_l1", "image_loss.gradient=2")
    objective.image_generator = Blank()
    batch = batch_of()
    ce = gradients(*objective_of("loss=ce"), batch)["ce"]
    torch.testing.assert_close(total_gradient(objective, restores, batch), ce)


def test_with_few_true_masks_the_others_serve_the_image_terms_alone() -> None:
    objective, restores = objective_of("data.num_true_masks=2")
    batch = batch_of(6)
    of = gradients(objective, restores, batch)
    everywhere = gradients(*objective_of(), batch)
    assert of["ce"][[1, 3]].abs().max() == 0
    torch.testing.assert_close(of["ce"][[0, 2]], 2 * everywhere["ce"][[0, 2]])
    assert torch.equal(of["l1"], everywhere["l1"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["image_loss.start=0.5", "weights.ce=0"], "need the cross entropy"),
        (["image_loss.gradient=1", "weights.ce=0"], "need the cross entropy"),
        (["image_loss.start=2"], "image_loss.start"),
        (["task=super_resolution", "image_loss.pixels=unannotated"], "no gaps"),
        (["image_loss.start=0.5", "health.spike_deviations=6"], "spike_deviations=0"),
        (["data.num_true_masks=3", "data.shuffle_shards=2"], "write data.shuffle_shards=0"),
        (["data.num_true_masks=3", "target=nearest"], "write target=true"),
        (
            ["data.num_true_masks=3", "weights.class_balance=0.4", "image_loss.gradient=1"],
            "weights.class_balance=0 and image_loss.gradient=0",
        ),
    ],
)
def test_settings_that_do_not_fit(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([*WORDS, *words])
