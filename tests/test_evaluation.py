import hashlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn

from maskrestore.config import RunConfig, load_config
from maskrestore.data import Batch
from maskrestore.evaluation import (
    evaluate,
    evaluate_run,
    load_frozen_generator,
    load_mask_generator,
    write_result,
)
from maskrestore.labels import NUM_CLASSES
from maskrestore.metrics import ImageDistances
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.pretrained import save_spade_generator, save_weights
from maskrestore.models.spade import SPADEGenerator
from maskrestore.pictures import contact_sheet
from maskrestore.run_folder import inputs
from maskrestore.segmap import generator_input, one_hot, to_uint8
from maskrestore.settings import ConfigError, UserError, parse, to_yaml
from shards.write import WriteConfig, write_shards

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
HEIGHT, WIDTH = 32, 64


def config_of(*words: str) -> RunConfig:
    return load_config(["evaluation.features=lite0", "data.size=32x64", *words])


def batch_of(*indices: int) -> Batch:
    """Samples that are a function of their index alone."""
    rows = []
    for index in indices:
        draw = torch.Generator().manual_seed(index)
        fine = torch.randint(0, NUM_CLASSES, (4, 8), generator=draw)
        fine = fine.repeat_interleave(8, 0).repeat_interleave(8, 1)
        unannotated = torch.rand(HEIGHT, WIDTH, generator=draw) < 0.3
        image = torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=draw, dtype=torch.uint8)
        instance = torch.arange(HEIGHT * WIDTH).view(HEIGHT, WIDTH) // 100
        rows.append((image, fine, fine.masked_fill(unannotated, 0), instance))
    return Batch(tuple(f"scene_{i}" for i in indices), *map(torch.stack, zip(*rows, strict=True)))


class FillRoad(nn.Module):
    """A mask generator that keeps what is annotated and calls the rest road."""

    def forward(self, degraded_segmap: Tensor, valid: Tensor) -> Tensor:
        assert torch.equal(degraded_segmap.sum(1, keepdim=True), valid)
        logits = degraded_segmap.clone()
        logits[:, 7] += 1 - valid[:, 0]
        return logits


class Painter(nn.Module):
    """An image generator; remembers the last input and whether it was in training mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(NUM_CLASSES + 2, 3, 1)
        self.seen = torch.empty(0)
        self.seen_training = False

    def forward(self, segmap: Tensor) -> Tensor:
        self.seen, self.seen_training = segmap, self.training
        image: Tensor = self.convolution(segmap).tanh()
        return image


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
        synthesized = to_uint8(painter(segmap))
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

        def forward(self, segmap: Tensor, valid: Tensor) -> Tensor:
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
    with pytest.raises((AssertionError, RuntimeError)):  # also when evaluation fails
        evaluate(config_of("task=densify"), [unreadable], mask_generator, painter, CPU)
    assert mask_generator.training
    assert not painter.training


def test_pictures_of_the_first_samples_and_their_sheet(tmp_path: Path) -> None:
    folder, batches = tmp_path / "pictures", [batch_of(0, 1), batch_of(2, 3)]
    config = config_of("task=densify", "evaluation.num_pictures=3")
    evaluate(config, batches, FillRoad(), Painter(), CPU, folder)
    kinds = ("input", "restored", "synthesized", "true_mask", "real")
    expected = {f"scene_{index}_{kind}.png" for index in range(3) for kind in kinds}
    assert {path.name for path in folder.iterdir()} == expected
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    with Image.open(folder / "scene_2_real.png") as image:
        assert image.getpixel((5, 4)) == tuple(batches[1].image[0, :, 4, 5].tolist())
    with Image.open(folder / "scene_0_restored.png") as image:
        row, column = (batches[0].coarse[0] == 0).nonzero()[0].tolist()
        assert image.getpixel((column, row)) == (128, 64, 128)  # road

    contact_sheet(folder, tmp_path / "samples" / "000000100.png")
    with Image.open(tmp_path / "samples" / "000000100.png") as sheet:
        assert sheet.width > 5 * WIDTH
        assert sheet.height > 3 * HEIGHT

    # A later evaluation leaves no picture of other samples behind.
    evaluate(config, [batch_of(7)], FillRoad(), None, CPU, folder)
    expected = {f"scene_7_{kind}.png" for kind in kinds if kind != "synthesized"}
    assert {path.name for path in folder.iterdir()} == expected


def test_no_pictures_give_no_sheet(tmp_path: Path) -> None:
    contact_sheet(tmp_path, tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []


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


SHARES = (
    (((0, 2), (4,)), ((1, 3),)),  # two batches here, one there
    (((0, 1),), ()),  # nothing at all there
)
"""Case -> process -> batches of sample numbers."""


def figures_of(batches: Iterable[Sequence[int]]) -> dict[str, Any]:
    inputs = [batch_of(*indices) for indices in batches]
    return evaluate(config_of("task=densify"), inputs, FillRoad(), Painter(), CPU)


def process(rank: int, rendezvous: Path) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    figures = [figures_of(share[rank]) for share in SHARES]
    dist.destroy_process_group()
    return figures


@pytest.mark.slow
def test_uneven_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        of_both = pool.map(process, range(2), [tmp_path / "rendezvous"] * 2)
        alone = [figures_of(itertools.chain(*share)) for share in SHARES]
        for of_one in of_both:
            for figures, expected in zip(of_one, alone, strict=True):
                for name in ("fd_lite0", "kd_lite0"):
                    # The network rounds otherwise in batches of another size: 2e-6 was seen.
                    assert figures.pop(name) == pytest.approx(expected[name], rel=1e-4)
                assert figures.items() <= expected.items()  # counts: the same, to the last bit
                assert figures["accu"] is not None


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    words = ["size=32x64", "num_train=1", "num_val=3", "workers=1", f"out={out}"]
    write_shards(parse(WriteConfig, words))
    return out


@pytest.fixture
def finished_run(tmp_path: Path, shards: Path) -> RunConfig:
    """A run folder as training leaves it, with untrained networks."""
    run = tmp_path / "run"
    run.mkdir()
    save_spade_generator(SPADEGenerator(NUM_CLASSES + 2, 1, 4, (32, 64)), tmp_path / "g.pth")
    config = config_of(
        *("task=densify", "loss=ce", f"run={run}", f"data.shards={shards}"),
        *("mask_generator.width=8", "mask_generator.hidden=4", f"generator.path={tmp_path}/g.pth"),
        *("evaluation.batch_size=2", "distributed.device=cpu"),
    )
    (run / "config.yaml").write_text(to_yaml(config))
    (run / "result.json").write_text('{"num_images": 640, "metrics": {}, "protocol": {}}')
    torch.manual_seed(0)
    save_weights(
        MaskGenerator(NUM_CLASSES, 8, 4, (32, 64)).state_dict(), run / "mask_generator.pth"
    )
    return config


def evaluate_program(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "evaluate.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_run_is_evaluated_again_and_its_result_says_how(finished_run: RunConfig) -> None:
    metrics = evaluate_run(finished_run)
    result = json.loads((finished_run.run / "result.json").read_text())
    assert result["metrics"] == metrics
    assert metrics["num_samples"] == 3
    assert 0 < metrics["accu"] < 1
    assert metrics["fd_lite0"] > 0
    assert (result["task"], result["loss"], result["num_images"]) == ("densify", "ce", 640)
    assert result["protocol"]["edges"] == "argmax"
    assert result["protocol"]["source"] == "streetscenes"
    assert result["protocol"]["features"] == "lite0"
    assert (result["protocol"]["height"], result["protocol"]["width"]) == (32, 64)
    generator = finished_run.generator.path
    assert generator is not None
    assert result["generator_sha256"] == hashlib.sha256(generator.read_bytes()).hexdigest()
    assert result["versions"]["torch"] == torch.__version__
    assert len(list((finished_run.run / "pictures").glob("*_restored.png"))) == 3


def test_a_val_split_that_was_not_wholly_evaluated_gives_no_result(
    finished_run: RunConfig,
) -> None:
    before = (finished_run.run / "result.json").read_bytes()
    with pytest.raises(RuntimeError, match="2 samples evaluated of 3"):
        write_result(finished_run, {"num_samples": 2}, 0, finished_run.run)
    assert (finished_run.run / "result.json").read_bytes() == before


@pytest.mark.slow
def test_the_program_keeps_the_result_where_settings_differ(finished_run: RunConfig) -> None:
    before = (finished_run.run / "result.json").read_bytes()
    done = evaluate_program(f"run={finished_run.run}", "generator.edges=instance")
    assert done.returncode == 0, done.stderr
    assert "accu " in done.stdout
    assert "generator.edges: argmax -> instance" in done.stdout
    assert (finished_run.run / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run: must be given, as run=runs/NAME"),
        (["run=nowhere"], "run=nowhere is not the folder of a run"),
    ],
)
def test_the_program_explains_the_users_mistakes(words: list[str], message: str) -> None:
    done = evaluate_program(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfinished_run_is_named(finished_run: RunConfig) -> None:
    (finished_run.run / "result.json").unlink()
    with pytest.raises(UserError, match=r"no result\.json: finish it"):
        evaluate_run(finished_run)


def test_a_damaged_result_is_named(finished_run: RunConfig) -> None:
    for content in ("{", "[]", '{"num_images": "many"}'):
        (finished_run.run / "result.json").write_text(content)
        with pytest.raises(UserError, match=r"result\.json is not a result"):
            evaluate_run(finished_run)


@pytest.mark.slow
def test_the_program_is_exact_on_ranks_that_do_not_divide_the_training_batch(
    finished_run: RunConfig,
) -> None:
    """And another generator's figures do not replace the run's."""
    one = evaluate_run(finished_run)
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3")
    command = [*run, str(ROOT / "evaluate.py"), f"run={finished_run.run}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    three = json.loads((finished_run.run / "result.json").read_text())["metrics"]
    assert three["num_samples"] == 3
    for name in ("accu", "miou19", "miou_all"):
        assert three[name] == one[name]
    assert three["fd_lite0"] == pytest.approx(one["fd_lite0"], rel=1e-3)

    train_inputs = finished_run.run / "inputs.json"
    train_inputs.write_text(json.dumps({**inputs(finished_run), "generator.path": "0" * 64}))
    before = (finished_run.run / "result.json").read_bytes()
    done = evaluate_program(f"run={finished_run.run}")
    assert "generator.path: sha256 000000000000" in done.stdout
    assert (finished_run.run / "result.json").read_bytes() == before
