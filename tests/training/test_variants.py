"""Runs that are not the paper's: the image is seen as well, or hard masks are judged."""

import shutil
from pathlib import Path

import pytest
import torch
from label_sets import NUM_CLASSES
from tiny_runs import Words, losses_of
from torch import Tensor, nn

from maskrestore.config.run import load_config
from maskrestore.data.loader import training_batches
from maskrestore.data.segmap import generator_input
from maskrestore.evaluation.finished_run import evaluate_run
from maskrestore.models.build import load_mask_generator
from maskrestore.models.mask_generator import CHANNELS, MaskGenerator
from maskrestore.models.weights import load_weights
from maskrestore.training.loop import train
from maskrestore.training.setup import make_objective
from maskrestore.utils.errors import UserError


def test_further_channels_change_what_is_seen_and_no_name() -> None:
    torch.manual_seed(0)
    mask_only = MaskGenerator(5, 2, 4, (32, 64))
    torch.manual_seed(0)
    with_image = MaskGenerator(5, 2, 4, (32, 64), num_further=3).double()
    nn.init.normal_(with_image.conv_logits.weight)
    assert list(mask_only.state_dict()) == list(with_image.state_dict())
    segmap, image = torch.rand(2, 5, 32, 64).double(), torch.rand(2, 3, 32, 64)
    valid = torch.ones(2, 1, 32, 64, dtype=torch.bool)
    logits = with_image(segmap, valid, image)
    assert logits.dtype == torch.float64  # what the mask is of, not what the image is of
    assert not torch.allclose(logits, with_image(segmap, valid, -image))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mask_generator_sees_the_image_in_training_and_in_evaluation(
    words: Words, tmp_path: Path, precision: str
) -> None:
    more = ("loss=ce_l1", "training.num_images=16", f"distributed.precision={precision}")
    config = load_config(words("seeing", *more, "condition=mask_image"))
    result = train(config)
    trained = load_weights(config.run / "mask_generator.pth")
    assert trained["fc.weight"].shape[1] == NUM_CLASSES + 2 + 3 + 5 * CHANNELS
    assert evaluate_run(config, write=False)["accu"] == result["metrics"]["accu"]
    train(load_config(words("blind", *more)))
    assert losses_of(tmp_path / "seeing") != losses_of(tmp_path / "blind")
    with pytest.raises(UserError, match="mask_generator"):
        load_mask_generator(load_config(words("seeing", *more)))


class Painter(nn.Module):
    """An image generator that shows every change of its input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(NUM_CLASSES + 2, 3, 1).requires_grad_(False)

    def forward(self, segmap: Tensor, edges: str, *_: object) -> Tensor:
        image: Tensor = self.convolution(generator_input(segmap, edges)).tanh()
        return image


@pytest.mark.parametrize("relaxation", ["straight_through", "gumbel"])
def test_hard_masks_cost_the_same_in_parts_and_something_else_than_soft_ones(
    words: Words, relaxation: str
) -> None:
    def step(relaxation: str, num_parts: int) -> tuple[dict, list[Tensor]]:
        config = load_config(words("run", "loss=ce_l1", f"relaxation={relaxation}"))
        objective = make_objective(config, Painter(), torch.device("cpu"))
        batches = training_batches(config, 8, 0, 1)
        parts = next(batches).split(num_parts)
        batches.close()
        total = {"ce": 0.0, "l1": 0.0}
        for losses in map(objective.phases()[0].losses, parts):
            sum(losses.values()).div(num_parts).backward()
            total = {name: total[name] + losses[name].item() / num_parts for name in total}
        parameters = objective.networks["mask_generator"].parameters()
        return total, [p.grad for p in parameters if p.grad is not None]

    soft, _ = step("softmax", 1)
    whole, gradient = step(relaxation, 1)
    parts, summed = step(relaxation, 2)
    assert parts == pytest.approx(whole, rel=1e-5)
    torch.testing.assert_close(summed, gradient, rtol=1e-3, atol=1e-5)
    assert whole["ce"] == pytest.approx(soft["ce"], rel=1e-6)
    assert whole["l1"] != pytest.approx(soft["l1"], rel=1e-3)


@pytest.mark.slow
def test_random_damage_and_drawn_masks_go_on_bit_for_bit(words: Words, tmp_path: Path) -> None:
    """And every evaluation of a run sees the same damaged masks."""
    more = ("loss=ce_l1", "degradation=mixture", "relaxation=gumbel", "training.num_images=24")
    config = load_config(words("run", *more))
    result = train(config)
    assert evaluate_run(config, write=False)["accu"] == result["metrics"]["accu"]
    weights, losses = load_weights(config.run / "mask_generator.pth"), losses_of(config.run)
    # As a run that was killed after its last checkpoint but one.
    for name in ("result.json", "mask_generator.pth"):
        (config.run / name).unlink()
    shutil.rmtree(config.run / "checkpoints" / "000000024")
    train(config)
    again = load_weights(config.run / "mask_generator.pth")
    assert [name for name in weights if not torch.equal(weights[name], again[name])] == []
    assert losses_of(config.run) == losses
