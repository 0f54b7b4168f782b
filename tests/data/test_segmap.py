"""Segmentation maps: what the image generator is given."""

import pytest
import torch
from label_sets import CITYSCAPES, EVALUATED_IDS, LABELS, NUM_CLASSES, one_hot

from maskrestore.data.segmap import (
    colorize,
    edge_map,
    generator_input,
    relaxed_segmap,
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
    assert [label.id for label in LABELS if label.instances] == list(range(24, 34))


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
    shown = colorize(torch.tensor([[[7, 26]]]), CITYSCAPES)
    assert shown[0, :, 0].T.tolist() == [[128, 64, 128], [0, 0, 142]]


def some_logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3), requires_grad=True)


def gradient_through(segmap: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    weights = torch.rand(segmap.shape, generator=torch.Generator().manual_seed(4))
    return torch.autograd.grad((segmap * weights).sum(), logits)[0]


def test_straight_through_is_hard_and_has_the_gradient_of_the_softmax() -> None:
    logits = some_logits(2, 34, 8, 16)
    hard, soft = relaxed_segmap(logits, "straight_through"), relaxed_segmap(logits, "softmax")
    assert torch.equal(soft, logits.softmax(1))
    assert torch.equal(hard, one_hot(logits.argmax(1)))  # to the last bit
    assert torch.equal(gradient_through(hard, logits), gradient_through(soft, logits))
    broken = relaxed_segmap(torch.full((1, 34, 1, 1), float("nan")), "straight_through")
    assert broken.isnan().all()  # and the step is told as one that is not finite


def test_gumbel_draws_each_class_as_often_as_is_probable() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log().view(1, 4, 1, 1).expand(2, 4, 64, 64).clone().requires_grad_()
    drawn = relaxed_segmap(logits, "gumbel", [1, 2])
    assert torch.equal(drawn.sum(1), torch.ones(2, 64, 64))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean((0, 2, 3)), probabilities, atol=0.025, rtol=0)
    gradient = gradient_through(drawn, logits)
    assert (gradient.abs().sum(1) > 0).float().mean() > 0.99
    torch.testing.assert_close(gradient.sum(1), torch.zeros(2, 64, 64), atol=1e-6, rtol=0)


def test_gumbel_draws_by_the_seeds_of_the_samples_alone() -> None:
    logits = some_logits(4, 34, 16, 32).detach()
    seeds = [11, 2**64 - 1, 0, 7]
    whole = relaxed_segmap(logits, "gumbel", seeds)
    halves = [relaxed_segmap(logits[i : i + 2], "gumbel", seeds[i : i + 2]) for i in (0, 2)]
    assert torch.equal(torch.cat(halves), whole)
    strided = logits.to(memory_format=torch.channels_last)
    assert torch.equal(relaxed_segmap(strided, "gumbel", seeds), whole)
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(relaxed_segmap(logits, "gumbel", seeds), whole)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(relaxed_segmap(logits, "gumbel", [11, 5, 0, 7])[1], whole[1])
    with pytest.raises(ValueError, match="zip"):
        relaxed_segmap(logits, "gumbel", [1])
