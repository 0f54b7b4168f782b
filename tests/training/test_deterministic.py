"""distributed.deterministic: torch refuses operations of CUDA that add in no order, and it does so
before they run, so also on the null GPU. (What real ones compute twice was not compared.)"""

import json

import null_gpu
import pytest
import torch
from tiny_runs import ENGINES, Words

from maskrestore.config.run import load_config
from maskrestore.distributed.processes import make_accelerator

SCRIPT = """
import json, os
from maskrestore.config.run import load_config
from maskrestore.evaluation import evaluate
from maskrestore.training import loop

def computed(*_):
    raise SystemExit(0)  # what the null GPU has counted makes no figures

evaluate.SegmentationMetrics.compute = evaluate.ImageDistances.compute = computed
try:
    loop.train(load_config(json.loads('''{words}''')))
except SystemExit:
    print(torch.are_deterministic_algorithms_enabled(), os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
"""
MANY = (
    *("condition=mask_image", "relaxation=gumbel", "degradation=mixture"),
    *("distributed.precision=bf16", "distributed.frozen_precision=fp16"),
    *("image_loss.pixels=unannotated", "image_loss.gradient=0.5", "training.max_gradient_norm=1"),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        ("loss=ce_vgg_l1", "weights.class_balance=0.5", "weights.lovasz=0.5", *ENGINES["ddp"]),
        ("loss=ce_vgg_l1", *ENGINES["zero2"]),
        ("loss=ce_vgg_l1", *MANY),
        ("loss=ce_l1", "task=super_resolution", "protocol=strict", "generator.edges=soft"),
        ("loss=ce_l1", "generator.size=64x128"),
        ("task=synthesis", "generator.path=none"),
    ],
)
def test_a_run_takes_only_operations_that_have_an_order(
    words: Words, given: tuple[str, ...]
) -> None:
    own = ("training.num_images=8", "generator.num_images=8", "evaluation.num_pictures=0")
    own += ("distributed.device=cuda", "distributed.deterministic=true")
    told = null_gpu.run_there(SCRIPT.format(words=json.dumps(words("run", *own, *given))))
    assert told.splitlines()[-1] == "True :4096:8"


def test_a_cpu_has_an_order_of_its_own() -> None:
    config = load_config(["distributed.device=cpu", "distributed.deterministic=true"])
    make_accelerator(config, for_training=True)
    assert not torch.are_deterministic_algorithms_enabled()
