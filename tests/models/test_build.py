"""Networks of files: what is missing or does not fit is told."""

from pathlib import Path

import pytest
import torch
from tiny_evaluation import CPU, config_of

from maskrestore.models.build import load_frozen_generator, load_mask_generator
from maskrestore.utils.errors import ConfigError, UserError


def test_a_loss_on_images_needs_an_image_generator() -> None:
    with pytest.raises(ConfigError, match=r"loss=ce_l1 .*generator\.path=FILE"):
        load_frozen_generator(config_of("task=densify", "loss=ce_l1"), CPU)
    with pytest.raises(ConfigError, match=r"task=synthesis .*generator\.path=FILE"):
        load_frozen_generator(config_of("task=synthesis", "loss=none"), CPU)
    assert load_frozen_generator(config_of("task=densify", "loss=ce"), CPU) is None


def test_a_mask_generator_of_other_sizes_is_named(tmp_path: Path) -> None:
    torch.save({"conv_logits.bias": torch.zeros(19)}, tmp_path / "mask_generator.pth")
    with pytest.raises(UserError, match=r"mask_generator\.pth.*\[19\] in the file, \[34\] here"):
        load_mask_generator(config_of(f"run={tmp_path}"))
