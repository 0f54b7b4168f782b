"""Training through its doors: one process and two, killed and resumed."""

import json
import signal
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from forked import ROOT, start_program
from tiny_runs import Words, lines_of, losses_of, run_ranks, run_train, torchrun, wait_until

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.loader import val_batches
from maskrestore.models.build import load_frozen_generator
from maskrestore.models.weights import load_weights
from maskrestore.objectives.restoration import Restoration
from maskrestore.training.loop import train
from maskrestore.training.setup import make_objective
from maskrestore.training.step import learning_rate_factor
from shards.write import WriteConfig, write_shards


@pytest.mark.slow
def test_a_restoring_run_leaves_everything_a_user_looks_for(words: Words, generator: Path) -> None:
    before = generator.read_bytes()
    config = load_config(words("run", "task=super_resolution", "loss=ce_vgg_l1"))
    result = train(config)
    assert set(result["metrics"]) >= {"accu", "miou19", "miou_all", "fd_lite0", "kd_lite0"}
    assert result["metrics"]["num_samples"] == 5
    assert result["num_images"] == 32
    assert {p.name for p in (config.run / "checkpoints").iterdir()} == {"000000024", "000000032"}
    assert load_config([f"config={config.run / 'config.yaml'}"]) == config
    assert [n for n, _ in losses_of(config.run)] == [8, 16, 24, 32]
    assert all(set(losses) == {"ce", "perceptual", "l1"} for _, losses in losses_of(config.run))
    assert (config.run / "samples" / "000000032.png").is_file()
    samples = json.loads((config.run / "samples.json").read_text())
    ranked = [sample["key"] for sample in sorted(samples, key=itemgetter("accu"))]
    first = sorted(sample["key"] for sample in samples)[:2]
    drawn = {p.name for p in (config.run / "pictures").glob("*_restored.png")}
    assert drawn == {f"{key}_restored.png" for key in {*first, *ranked[:2], *ranked[-2:]}}
    assert load_weights(config.run / "mask_generator.pth")
    assert generator.read_bytes() == before
    assert train(config)["metrics"] == result["metrics"]  # nothing left to train: the same again


@pytest.mark.slow
def test_training_lowers_the_loss_and_beats_the_input(words: Words) -> None:
    def accu(name: str, *more: str) -> float:
        return train(load_config(words(name, "task=densify", *more)))["metrics"]["accu"]

    more = ["training.num_images=400", "training.learning_rate=3e-3", "training.log_images=40"]
    config = load_config(words("trained", "task=densify", "loss=ce", *more))
    trained = train(config)["metrics"]["accu"]
    first, last = losses_of(config.run)[0][1], losses_of(config.run)[-1][1]
    assert last["ce"] < 0.6 * first["ce"]
    assert trained > accu("input", "loss=none") + 0.1


@pytest.mark.slow
def test_an_image_generator_is_trained_and_saved_in_the_official_layout(words: Words) -> None:
    config = load_config(
        [w for w in words("synthesis", "task=synthesis") if not w.startswith("generator.path")]
    )
    result = train(config)
    assert result["num_images"] == 16
    assert result["metrics"]["accu"] is None
    assert result["metrics"]["fd_lite0"] > 0
    terms = {"gan", "feature_matching", "perceptual", "discriminator"}
    assert all(set(losses) == terms for _, losses in losses_of(config.run))
    path = config.run / "generator.pth"
    statistics = load_weights(path)["up_3.norm_0.param_free_norm.running_mean"]
    assert statistics.abs().sum() > 0  # batch statistics were gathered
    evaluated = load_config(words("given", "task=synthesis", "loss=none", f"generator.path={path}"))
    again = train(evaluated)["metrics"]
    assert again["fd_lite0"] == pytest.approx(result["metrics"]["fd_lite0"], rel=1e-4)


def test_nothing_of_the_frozen_networks_changes_and_the_gradient_passes(
    words: Words,
) -> None:
    config = load_config(words("run", "loss=ce_vgg_l1"))
    frozen = load_frozen_generator(config, torch.device("cpu"))
    assert frozen is not None
    objective = make_objective(config, frozen, torch.device("cpu"))
    assert isinstance(objective, Restoration)
    assert objective.perceptual_loss is not None
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    features = {k: v.clone() for k, v in objective.perceptual_loss.state_dict().items()}
    parent = torch.nn.ModuleList([frozen, objective.perceptual_loss])
    parent.train()
    # Which begins at zero, and lets no gradient pass before its first step.
    torch.nn.init.normal_(objective.networks["mask_generator"].conv_logits.weight)
    batch = next(val_batches(config, 0, 1))
    losses = objective.losses(batch)
    (losses["perceptual"] + losses["l1"]).backward()
    grads = {k: p.grad for k, p in objective.networks["mask_generator"].named_parameters()}
    assert all(grad is not None for grad in grads.values())
    for name in ("conv_logits.weight", "up_3.conv_0.weight", "up_0.modulation_0.weight"):
        assert grads[name].abs().sum() > 0, name
    assert all(torch.equal(before[k], v) for k, v in frozen.state_dict().items())
    after = objective.perceptual_loss.state_dict()
    assert all(torch.equal(features[k], v) for k, v in after.items())
    assert all(p.grad is None for p in parent.parameters())


def test_the_same_seed_starts_from_the_same_weights_whatever_the_loss(
    words: Words,
) -> None:
    config = load_config(words("run", "loss=ce_vgg_l1"))
    frozen = load_frozen_generator(config, torch.device("cpu"))
    assert frozen is not None
    first = []
    for loss in ("ce", "ce_vgg_l1"):
        objective = make_objective(
            load_config(words("run", f"loss={loss}")), frozen, torch.device("cpu")
        )
        first.append(objective.networks["mask_generator"].state_dict())
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])


def test_the_learning_rate_is_constant_then_falls_to_zero() -> None:
    config = load_config(["training.num_images=100", "training.decay_start=0.5", "loss=ce"])
    rates = [learning_rate_factor(config, n) for n in (0, 49, 50, 75, 100)]
    assert rates == pytest.approx([1, 1, 1, 0.5, 0])
    constant = load_config(["training.num_images=100", "training.decay_start=1", "loss=ce"])
    assert learning_rate_factor(constant, 99) == 1


@pytest.mark.slow
@pytest.mark.parametrize("task", ["densify", "synthesis"])
def test_a_killed_run_resumes_to_the_same_weights_bit_for_bit(
    words: Words, tmp_path: Path, task: str
) -> None:
    more = ("loss=ce_l1", "training.num_images=80", "training.keep_checkpoints=3")
    more += (f"task={task}", "generator.num_images=80")
    train(load_config(words("unbroken", *more)))
    process = start_program([str(ROOT / "train.py"), *words("broken", *more)])
    wait_until((tmp_path / "broken" / "checkpoints" / "000000024").exists, [process])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "broken" / "result.json").exists()
    train(load_config(words("broken", *more)))
    file = "generator.pth" if task == "synthesis" else "mask_generator.pth"
    unbroken, broken = (load_weights(tmp_path / name / file) for name in ("unbroken", "broken"))
    assert all(torch.equal(unbroken[key], broken[key]) for key in unbroken)
    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["densify", "synthesis"])
def test_two_processes_compute_what_one_does(words: Words, tmp_path: Path, task: str) -> None:
    """Exactly the same samples; losses and metrics equal within rounding.

    Not so for synthesis, whose batch norm takes its statistics per process on CPUs: there the run
    has to end well and every val sample has to count once.
    """
    more = (f"task={task}", "loss=ce_l1", "training.num_images=24")
    if task == "densify":
        done = run_train(words("two", *more), *torchrun(2))
        assert done.returncode == 0, done.stderr
    else:
        statuses, errors = run_ranks(words("two", *more), 2)
        assert statuses == [0, 0], errors
    reports = [line for line in lines_of(tmp_path / "two") if "losses" in line]
    assert {line["num_processes"] for line in reports} == {2}
    two = json.loads((tmp_path / "two" / "result.json").read_text())["metrics"]
    assert two["num_samples"] == 5
    if task == "synthesis":
        assert (tmp_path / "two" / "generator.pth").is_file()
        return
    one = train(load_config(words("one", *more)))["metrics"]
    reports = zip(losses_of(tmp_path / "one"), losses_of(tmp_path / "two"), strict=True)
    for (n, ours), (m, theirs) in reports:
        assert n == m
        # Rounding in the first report; Adam magnifies it in each further step.
        assert ours == pytest.approx(theirs, rel=1e-5 if n == 8 else 5e-3)
    assert one["accu"] == pytest.approx(two["accu"], abs=2e-3)
    assert one["fd_lite0"] == pytest.approx(two["fd_lite0"], rel=1e-2)


@pytest.mark.slow
def test_bf16_trains_close_to_fp32(words: Words, tmp_path: Path) -> None:
    more = ("loss=ce_l1", "training.num_images=16")
    train(load_config(words("fp32", *more)))
    done = run_train(words("bf16", *more, "distributed.precision=bf16"))
    assert done.returncode == 0, done.stderr
    for (_, fp32), (_, bf16) in zip(
        losses_of(tmp_path / "fp32"), losses_of(tmp_path / "bf16"), strict=True
    ):
        assert bf16 == pytest.approx(fp32, rel=0.05)
        assert bf16 != fp32


@pytest.mark.slow
def test_frozen_networks_in_bf16_train_close_to_fp32(words: Words, tmp_path: Path) -> None:
    more = ("loss=ce_vgg_l1", "training.num_images=16")
    train(load_config(words("fp32", *more)))
    result = train(load_config(words("bf16", *more, "distributed.frozen_precision=bf16")))
    assert result["protocol"]["frozen precision"] == "bf16"
    for (_, fp32), (_, bf16) in zip(
        losses_of(tmp_path / "fp32"), losses_of(tmp_path / "bf16"), strict=True
    ):
        assert bf16 == pytest.approx(fp32, rel=0.05)
        assert bf16 != fp32
    scales = [line["gradient_scales"] for line in lines_of(tmp_path / "bf16") if "losses" in line]
    assert all(line == {"image_generator": 1.0} for line in scales)  # bf16 needs no scaling


@pytest.mark.slow
def test_parts_of_a_batch_train_as_the_whole(words: Words, tmp_path: Path) -> None:
    """Both tasks; batch norm and spectral norm see the parts one by one, so synthesis only ends."""
    more = ("loss=ce_l1", "training.num_images=16", "training.max_gradient_norm=1")
    train(load_config(words("whole", *more)))
    train(load_config(words("parts", *more, "training.accumulation=4")))
    for (_, whole), (_, parts) in zip(
        losses_of(tmp_path / "whole"), losses_of(tmp_path / "parts"), strict=True
    ):
        assert parts == pytest.approx(whole, rel=5e-3)
    few = tmp_path / "few"  # so that the parts of a batch are the same sample
    write_shards(WriteConfig(size="32x64", num_train=1, num_val=2, out=few, workers=1))
    gan = words("gan", "task=synthesis", "training.accumulation=4", f"data.shards={few}")
    assert train(load_config(gan))["num_images"] == 16


def test_config_is_plain_data() -> None:
    """It travels to jobs and into YAML; nothing in it may hold a live object."""
    assert RunConfig.model_validate(RunConfig().model_dump(mode="json")) == RunConfig()
