"""Generators of other label sets than Cityscapes: the official ones, and ours."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from maskrestore.config.labels import load_labels
from maskrestore.models.generators.files import read_generator
from maskrestore.models.generators.image_generator import ImageGenerator
from maskrestore.models.spade import SPADEGenerator
from maskrestore.utils.errors import UserError


class Painter(torch.nn.Module):
    """Draws what it sees first, and remembers it."""

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        self.shown = shown
        return shown[:, :3]


def saved(path: Path, inputs: int) -> Path:
    torch.save(SPADEGenerator(inputs, 2, 4, (32, 64)).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "inputs", "num_labels", "edges"),
    [
        ("ade20k", 151, 151, False),  # the official one: 150 and "don't care"
        ("coco_stuff", 184, 183, True),  # the official one: 182, "don't care" and edges
        ("ade20k", 153, 152, True),  # ours
        ("fields", 11, 10, True),
    ],
)
def test_generators_of_other_label_sets(
    name: str, inputs: int, num_labels: int, edges: bool, tmp_path: Path
) -> None:
    """Of official ones the last label is what is not annotated, which is number 0 here."""
    labels = load_labels(name)
    form = read_generator(saved(tmp_path / "g.pth", inputs), labels).form
    assert (form.num_labels, form.wants_edges) == (num_labels, edges)
    painter = Painter()
    label_map = torch.randint(0, labels.num_classes, (1, 32, 64))
    segmap = F.one_hot(label_map, labels.num_classes).permute(0, 3, 1, 2).float()
    ImageGenerator(painter, form, labels, (32, 64))(segmap, "argmax")
    seen = painter.shown[:, :num_labels].argmax(1)
    expected = label_map if num_labels > labels.num_classes else (label_map - 1) % num_labels
    assert torch.equal(seen, expected)
    assert painter.shown.shape[1] == inputs


def test_a_generator_of_other_labels_is_refused_with_both_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "g.pth", 36)
    with pytest.raises(UserError, match="takes 36 input channels, but the 151 classes of ADE20K"):
        read_generator(path, load_labels("ade20k"))
