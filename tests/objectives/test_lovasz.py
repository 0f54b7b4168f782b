"""The Lovász-Softmax loss against its definition, class by class."""

import pytest
import torch
from tiny_runs import Words
from torch import Tensor

from maskrestore.config.run import load_config
from maskrestore.data.loader import val_batches
from maskrestore.objectives.lovasz import lovasz_softmax
from maskrestore.training.setup import make_objective

THREE = torch.arange(3)


def by_definition(probabilities: Tensor, target: Tensor, number: int) -> float:
    """Of one class in one image, float [H*W] and int [H*W]: the Jaccard losses of the sets of the
    n pixels that are most wrong, each weighed by how far its last pixel is above the next
    (Berman et al. 2018, definition 2)."""
    foreground = target == number
    errors = torch.where(foreground, 1 - probabilities, probabilities)
    order = sorted(range(len(errors)), key=lambda pixel: -errors[pixel].item())
    total = 0.0
    for n in range(1, len(order) + 1):
        wrong = set(order[:n])
        missed = sum(foreground[pixel].item() for pixel in wrong)
        union = foreground.sum().item() + n - missed
        last = errors[order[n - 1]].item()
        following = errors[order[n]].item() if n < len(order) else 0.0
        total += (last - following) * (1 - (foreground.sum().item() - missed) / union)
    return total


def test_it_is_what_it_is_defined_as() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 4, 6)
    target = torch.randint(0, 4, (3, 4, 6))
    target[2] = 1
    probabilities = logits.softmax(1)
    found = lovasz_softmax(probabilities, target, torch.arange(5))
    for image in range(3):
        present = target[image].unique().tolist()
        expected = [
            by_definition(probabilities[image, number].flatten(), target[image].flatten(), number)
            for number in present
        ]
        assert found[image].item() == pytest.approx(sum(expected) / len(present), rel=1e-5)


def test_of_a_hard_mask_it_is_what_is_missing_of_the_iou() -> None:
    torch.manual_seed(0)
    restored, target = torch.randint(0, 3, (2, 1, 8, 8))
    probabilities = torch.nn.functional.one_hot(restored, 3).movedim(-1, 1).float()
    iou = [
        ((restored == k) & (target == k)).sum() / ((restored == k) | (target == k)).sum()
        for k in range(3)
    ]
    found = lovasz_softmax(probabilities, target, THREE)
    assert found.item() == pytest.approx(1 - torch.stack(iou).mean().item(), abs=1e-6)


def test_its_gradient_is_that_of_finite_differences() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 3, (2, 3, 4))
    assert torch.autograd.gradcheck(
        lambda x: lovasz_softmax(x.softmax(1), target, THREE), logits, atol=1e-5
    )


def test_what_is_not_compared_changes_nothing() -> None:
    torch.manual_seed(0)
    probabilities, target = torch.randn(2, 3, 4, 4).softmax(1), torch.randint(0, 3, (2, 4, 4))
    target[0, :, 2:] = -100
    target[1] = -100
    probabilities.requires_grad_()
    found = lovasz_softmax(probabilities, target, THREE)
    alone = lovasz_softmax(probabilities[:1, :, :, :2], target[:1, :, :2], THREE)
    assert found[0].item() == pytest.approx(alone.item(), rel=1e-6)
    assert found[1] == 0
    (gradient,) = torch.autograd.grad(found.sum(), probabilities)
    assert gradient[0, :, :, 2:].abs().sum() == 0
    assert gradient[1].abs().sum() == 0
    assert gradient[0].abs().sum() > 0


def test_a_batch_has_the_mean_of_its_parts_however_it_is_split(words: Words) -> None:
    config = load_config(words("run", "loss=ce", "weights.lovasz=0.5", "weights.ce=0"))
    objective = make_objective(config, None, torch.device("cpu"))
    [phase] = objective.phases()
    assert phase.weights == {"lovasz": 0.5}

    def mean(num_processes: int) -> float:
        batches = [
            batch
            for rank in range(num_processes)
            for batch in val_batches(config, rank, num_processes)
        ]
        with torch.no_grad():
            losses = [phase.losses(batch)["lovasz"] * len(batch.keys) for batch in batches]
        return float(sum(losses)) / sum(len(batch.keys) for batch in batches)

    assert mean(2) == pytest.approx(mean(1), rel=1e-5)
    assert 0 < mean(1) < 1
