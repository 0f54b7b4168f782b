"""Runs that are not the paper's: a mask generator that sees the image too."""

from pathlib import Path

import pytest
import torch
from tiny_runs import Words, losses_of

from maskrestore.config import load_config
from maskrestore.evaluation import evaluate_run, load_mask_generator
from maskrestore.labels import NUM_CLASSES
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.pretrained import load_weights
from maskrestore.settings import UserError
from maskrestore.training_loop import train


def test_further_channels_change_what_is_seen_and_no_name() -> None:
    torch.manual_seed(0)
    mask_only = MaskGenerator(5, 2, 4, (32, 64))
    torch.manual_seed(0)
    with_image = MaskGenerator(5, 2, 4, (32, 64), num_further=3).double()
    assert list(mask_only.state_dict()) == list(with_image.state_dict())
    segmap, image = torch.rand(2, 5, 32, 64).double(), torch.rand(2, 3, 32, 64)
    valid = torch.ones(2, 1, 32, 64, dtype=torch.bool)
    logits = with_image(segmap, valid, image)
    assert logits.dtype == torch.float64  # what the mask is of, not what the image is of
    assert not torch.allclose(logits, with_image(segmap, valid, -image))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_mask_generator_sees_the_image_in_training_and_in_evaluation(
    words: Words, tmp_path: Path, precision: str
) -> None:
    more = ("loss=ce_l1", "training.num_images=16", f"distributed.precision={precision}")
    config = load_config(words("seeing", *more, "condition=mask_image"))
    result = train(config)
    trained = load_weights(config.run / "mask_generator.pth")
    assert trained["fc.weight"].shape[1] == NUM_CLASSES + 1 + 3
    assert evaluate_run(config, write=False)["accu"] == result["metrics"]["accu"]
    train(load_config(words("blind", *more)))
    assert losses_of(tmp_path / "seeing") != losses_of(tmp_path / "blind")
    with pytest.raises(UserError, match="mask_generator"):
        load_mask_generator(load_config(words("seeing", *more)))
