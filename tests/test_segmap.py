"""Segmentation maps: what the image generator is given."""

import pytest
import torch

from maskrestore.labels import EVALUATED_IDS, LABELS, NUM_CLASSES
from maskrestore.segmap import (
    colorize,
    edge_map,
    generator_input,
    one_hot,
    soft_edge_map,
    to_uint8,
    to_unit_range,
)


def random_map(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, NUM_CLASSES, shape, generator=generator)
    return small.repeat_interleave(3, -1).repeat_interleave(2, -2)


def test_the_label_table_is_the_benchmarks() -> None:
    assert [label.id for label in LABELS] == list(range(34))
    official = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
    assert official == EVALUATED_IDS
    assert [label.id for label in LABELS if label.has_instances] == list(range(24, 34))


def test_one_hot_and_argmax_are_inverse() -> None:
    label_map = random_map(2, 4, 5)
    segmap = one_hot(label_map)
    assert segmap.shape == (2, NUM_CLASSES, 8, 15)
    assert torch.equal(segmap.sum(1), torch.ones(2, 8, 15))
    assert torch.equal(segmap.argmax(1), label_map)


def test_edges_mark_both_sides_of_every_border() -> None:
    ids = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 3, 3]]])
    expected = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert torch.equal(edge_map(ids)[0, 0].int(), expected.int())


def test_soft_edges_equal_hard_ones_on_one_hot_maps_and_carry_a_gradient() -> None:
    label_map = random_map(2, 6, 7)
    assert torch.equal(soft_edge_map(one_hot(label_map)), edge_map(label_map))
    logits = torch.randn(1, NUM_CLASSES, 6, 6, requires_grad=True)
    soft_edge_map(logits.softmax(1)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("edges", ["argmax", "soft", "zeros", "instance"])
def test_the_generators_input_never_lights_channel_34(edges: str) -> None:
    segmap = torch.randn(2, NUM_CLASSES, 8, 8).softmax(1)
    instance = random_map(2, 4, 4)[:, :, :8]
    segmap = torch.nn.functional.interpolate(segmap, instance.shape[1:])
    made = generator_input(segmap, edges, instance)
    assert made.shape[1] == 36
    assert torch.equal(made[:, :34], segmap)
    assert made[:, 34].abs().max() == 0
    edge = {"zeros": torch.zeros_like(made[:, 35:]), "instance": edge_map(instance)}
    edge |= {"argmax": edge_map(segmap.argmax(1)), "soft": soft_edge_map(segmap)}
    assert torch.equal(made[:, 35:], edge[edges])


def test_true_edges_cannot_be_used_by_accident() -> None:
    with pytest.raises(ValueError, match="instance map"):
        generator_input(torch.zeros(1, NUM_CLASSES, 4, 4), "instance")


def test_images_survive_the_trip_to_minus_one_one_and_back() -> None:
    image = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert to_unit_range(image).min() == -1
    assert to_unit_range(image).max() == 1
    assert torch.equal(to_uint8(to_unit_range(image)), image)


def test_colours_are_the_benchmarks() -> None:
    shown = colorize(torch.tensor([[[7, 26]]]))
    assert shown[0, :, 0].T.tolist() == [[128, 64, 128], [0, 0, 142]]
