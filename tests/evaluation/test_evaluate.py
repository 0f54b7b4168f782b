"""The figures of an evaluation, of networks whose answers are known."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import ROOT
from label_sets import NUM_CLASSES, one_hot
from tiny_evaluation import CPU, SHARES, FillRoad, Painter, batch_of, config_of, figures_of
from tiny_runs import end_of, start_ranks
from torch import Tensor, nn

from maskrestore.data.segmap import generator_input, to_uint8
from maskrestore.evaluation.evaluate import evaluate
from maskrestore.evaluation.image_distances import ImageDistances


def test_an_unannotated_pixel_is_an_error_of_the_unrestored_row() -> None:
    batch = batch_of(0, 1)
    metrics = evaluate(config_of("task=densify", "loss=none"), [batch], None, None, CPU)
    assert metrics["accu"] == pytest.approx((batch.coarse == batch.fine).double().mean().item())
    assert metrics["accu_annotated"] == 1
    assert metrics["accu_unannotated"] == pytest.approx(
        (batch.fine[batch.coarse == 0] == 0).double().mean().item()
    )
    assert metrics["num_samples"] == 2
    assert metrics["fd_lite0"] is None  # there is no image generator
    assert "fid" not in metrics


def test_the_baselines_restore_without_training() -> None:
    batches = [batch_of(0, 1)]
    accuracy = {
        baseline: evaluate(
            config_of("task=super_resolution", "loss=none", f"baseline={baseline}"),
            batches,
            None,
            None,
            CPU,
        )["accu"]
        for baseline in ("input", "realign")
    }
    # Scenes of 8x8 squares survive corner sampling; realigning moves them off the grid.
    assert accuracy["input"] == 1
    assert accuracy["realign"] < 1


def test_the_mask_generator_restores_and_the_image_generator_sees_its_mask() -> None:
    batch, painter = batch_of(0, 1), Painter()
    metrics = evaluate(config_of("task=densify", "loss=ce"), [batch], FillRoad(), painter, CPU)
    restored = torch.where(batch.coarse == 0, 7, batch.coarse)
    assert metrics["accu"] == pytest.approx((restored == batch.fine).double().mean().item())
    # Hard classes, and the restored mask's own edges: the true ones would leak the answer.
    assert torch.equal(painter.seen, generator_input(one_hot(restored), "argmax"))
    assert metrics["fd_lite0"] > 0
    assert metrics["kd_lite0"] is not None


def test_synthesis_sees_true_masks_and_instances_and_has_no_accuracy() -> None:
    batch, painter = batch_of(0, 1), Painter()
    metrics = evaluate(config_of("task=synthesis"), [batch], None, painter, CPU)
    segmap = generator_input(one_hot(batch.fine), "instance", batch.instance)
    assert torch.equal(painter.seen, segmap)
    assert metrics["num_samples"] == 2
    segmentation = ("accu", "accu_annotated", "accu_unannotated", "miou19", "miou_all", "iou")
    assert [metrics[name] for name in segmentation] == [None] * 6

    with torch.no_grad():
        synthesized = to_uint8(painter(one_hot(batch.fine), "instance", batch.instance))
    expected = ImageDistances("lite0")
    expected.update(batch.image, synthesized)
    assert metrics["fd_lite0"] == pytest.approx(expected.compute()["fd_lite0"])


def test_each_network_computes_in_the_precision_asked_for() -> None:
    """distributed.precision is the trained network's alone; a frozen one has its own."""
    painter = Painter()
    mask_generator = nn.Conv2d(NUM_CLASSES, NUM_CLASSES, 1)

    class Restoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = mask_generator

        def forward(self, segmap: Tensor, *_: Tensor) -> Tensor:
            return self.convolution(segmap)

    seen = []
    for network in (mask_generator, painter.convolution):
        network.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    for precision in ("fp32", "bf16"):
        config = config_of(f"distributed.precision={precision}")
        evaluate(config, [batch_of(0, 1)], Restoring(), painter, CPU)
    assert seen == [torch.float32, torch.float32, torch.bfloat16, torch.float32]


def test_networks_are_evaluated_and_then_left_as_they_came() -> None:
    mask_generator, painter = FillRoad().train(), Painter().train()
    evaluate(config_of("task=densify"), [batch_of(0)], mask_generator, painter, CPU)
    assert not painter.seen_training
    assert mask_generator.training
    assert painter.training
    assert painter.convolution.weight.grad is None

    painter.eval()
    unreadable = batch_of(0)
    object.__setattr__(unreadable, "coarse", unreadable.coarse[:, :7])
    with pytest.raises((AssertionError, ValueError)):  # also when evaluation fails
        evaluate(config_of("task=densify"), [unreadable], mask_generator, painter, CPU)
    assert mask_generator.training
    assert not painter.training


def test_the_confidence_is_the_probability_of_the_restored_class() -> None:
    metrics = evaluate(
        config_of("task=densify", "loss=ce"), [batch_of(0, 1)], FillRoad(), None, CPU
    )
    everywhere = math.e / (math.e + 33)  # a logit of 1 among zeros
    assert metrics["ece"] == pytest.approx(abs(metrics["accu"] - everywhere), abs=1e-6)
    untrained = evaluate(config_of("task=densify", "loss=none"), [batch_of(0)], None, None, CPU)
    assert untrained["ece"] is None
    assert "ece" not in untrained["intervals"]


def test_a_mixture_of_damages_is_told_apart() -> None:
    batch = batch_of(0, 1, 2)
    batch = replace(batch, kinds=("drop", "labels", "drop"))
    words = ("task=densify", "loss=none")
    mixed = evaluate(config_of(*words, "degradation=mixture"), [batch], None, None, CPU)
    by_kind = mixed["by_degradation"]
    assert {kind: figures["num_samples"] for kind, figures in by_kind.items()} == {
        "drop": 2,
        "labels": 1,
    }
    alone = evaluate(config_of(*words), [batch_of(1)], None, None, CPU)
    assert by_kind["labels"]["accu"] == alone["accu"]
    assert alone["by_degradation"] is None
    assert evaluate(config_of(*words), [batch], None, None, CPU)["by_degradation"] is None


@pytest.mark.slow
def test_uneven_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    program = ROOT / "tests" / "programs" / "evaluating.py"
    helpers = {"PYTHONPATH": str(ROOT / "tests" / "support")}
    ranks = start_ranks([str(tmp_path)], 2, program=program, environment=helpers)
    # Each share twice: the second time with the features of all real images known beforehand.
    alone = 2 * [figures_of(itertools.chain(*share)) for share in SHARES]
    statuses, errors = end_of(ranks)
    assert statuses == [0, 0], errors
    for rank in range(2):
        of_one = json.loads((tmp_path / f"{rank}.json").read_text())
        for figures, expected in zip(of_one, alone, strict=True):
            for name in ("fd_lite0", "kd_lite0"):
                # The network rounds otherwise in batches of another size: 2e-6 was seen.
                assert figures.pop(name) == pytest.approx(expected[name], rel=1e-4)
            assert figures.items() <= expected.items()  # counts: the same, to the last bit
            assert figures["accu"] is not None
