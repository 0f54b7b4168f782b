"""Settings: every mistake at once with its remedy, and files that round-trip."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from maskrestore.config.run import RunConfig, load_config
from maskrestore.config.settings import CONFIGS, flatten, to_yaml
from maskrestore.runs.resume_check import HARMLESS, differing_keys, read_run_config
from maskrestore.utils.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def mistakes(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(words)
    return str(caught.value)


def test_order_is_code_then_file_then_command_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("loss: ce\ntraining: {batch_size: 8, learning_rate: 1e-4}\n")
    config = load_config(["training.batch_size=4", f"config={file}"])
    assert (config.loss, config.training.batch_size) == ("ce", 4)
    assert config.training.learning_rate == 1e-4  # PyYAML reads 1e-4 as a string
    assert config.training.keep_checkpoints == RunConfig().training.keep_checkpoints


def test_all_mistakes_are_reported_at_once_each_with_its_remedy() -> None:
    message = mistakes(
        "task=densfy",
        "training.batch_size=four",
        "training.learning_rat=1",
        "data.size=100x200",
        "banana",
        "training=3",
        "qqq=1",
    )
    assert "task: input should be 'synthesis', 'densify' or 'super_resolution'" in message
    assert "got 'densfy'" in message
    assert "training.batch_size: input should be a valid integer" in message
    assert "'four'" in message
    assert "training.learning_rat: no such setting; did you mean learning_rate?" in message
    assert "data.size" in message
    assert "multiples of 32" in message
    assert "banana: write key=value" in message
    assert "write training.NAME=VALUE" in message
    assert "qqq: no such setting; there are: task" in message


def test_settings_that_contradict_each_other_are_refused_with_both_values() -> None:
    assert "baseline=fill is evaluated without training, but loss=ce" in mistakes(
        "baseline=fill", "loss=ce"
    )
    assert "baseline=realign is for task=super_resolution, not task=densify" in mistakes(
        "baseline=realign", "loss=none", "task=densify"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["loss=ce", "weights.ce=0"], "loss=ce with weights of 0 trains nothing"),
        (["training.betas=0.9,2"], "training.betas.1: input should be less than 1, got"),
        (["seed=99999999999999999999"], "seed: input should be less than 9223372036854775808"),
        (["run="], "run=: write a value behind it"),
        (
            ["distributed.precision=winograd"],
            "distributed.precision: input should be 'fp32', 'bf16' or 'fp16', got 'winograd'",
        ),
        (
            ["loss=none", "baseline=bilinear"],
            "baseline=bilinear is for task=super_resolution, not task=densify",
        ),
        (
            ["task=super_resolution", "degradation=drop"],
            "degradation=drop is for task=densify, not task=super_resolution: write "
            "degradation=task, or task=densify",
        ),
        (["task=synthesis", "degradation=mixture"], "degradation=mixture is for task=densify"),
        (
            ["protocol=strict", "generator.edges=instance"],
            "protocol=strict allows no true edges: write generator.edges=argmax, soft or zeros",
        ),
        (
            ["protocol=strict", "degrade.sampling=corner"],
            "protocol=strict samples at the centre, but degrade.sampling=corner",
        ),
        (["data.crop=48x64"], "data.crop: height and width must be multiples of 32"),
        (["data.crop=48x64"], "got '48x64'"),
        (
            ["data.crop=96x256", "data.size=128x192", "loss=ce"],
            "data.crop=96x256 is larger than data.size=128x192: write a smaller one",
        ),
        (
            ["data.crop=128x192", "task=synthesis"],  # data.size is 96x192: both are told
            "data.size=96x192: write a smaller one\ndata.crop=128x192 is for masks, and task="
            "synthesis trains on whole scenes: leave it out",
        ),
        (
            ["data.crop=96x128", "loss=ce_l1"],
            "data.crop=96x128 is for the cross entropy alone, since image generators draw whole "
            "scenes: write loss=ce and synthesized_images=0",
        ),
        (
            *(["data.crop=96x128", "loss=ce", "condition=image", "synthesized_images=0.5"],),
            "write loss=ce and synthesized_images=0",
        ),
    ],
)
def test_settings_that_could_not_work_are_refused(words: list[str], expected: str) -> None:
    assert expected in mistakes(*words)


def test_the_strict_protocol_samples_at_the_centre_and_is_saved_so(tmp_path: Path) -> None:
    config = load_config(["protocol=strict", "task=super_resolution", "degrade.factor=4"])
    assert (config.degrade.sampling, config.degrade.factor) == ("center", 4)
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert load_config([f"config={saved}"]) == config
    assert load_config(["task=super_resolution"]).degrade.sampling == "corner"
    # An image generator is trained on true edges whatever is made of it.
    assert load_config(["protocol=strict", "task=synthesis", "generator.edges=instance"]).trains


def test_a_run_of_before_a_setting_goes_on_with_its_default(tmp_path: Path) -> None:
    saved, words = tmp_path / "config.yaml", ["config=demo", "task=super_resolution", "seed=3"]
    new = ("protocol", "degradation", "condition", "relaxation")
    lines = to_yaml(load_config(words)).splitlines(keepends=True)
    old = [line for line in lines if line.partition(":")[0] not in new]
    assert len(old) == len(lines) - len(new)
    saved.write_text("".join(old))
    assert differing_keys(read_run_config(saved), load_config(words)) == []
    changed = [
        f"{key}={value}" for key, value in zip(new[2:], ("mask_image", "gumbel"), strict=True)
    ]
    assert differing_keys(read_run_config(saved), load_config([*words, *changed])) == [
        "condition: mask -> mask_image",
        "relaxation: softmax -> gumbel",
    ]


def test_words_mean_what_they_say() -> None:
    """YAML would read these as a number, a boolean, a date, a comment and a mapping."""
    for name in ("42", "no", "2024-01-01", "runs/x #1", "a: b"):
        assert load_config([f"run={name}"]).run == Path(name)
    config = load_config(["training.num_images=1e6", "training.betas=0.5,0.9"])
    assert config.training.num_images == 1_000_000
    assert config.training.betas == (0.5, 0.9)
    assert load_config(["generator.path=none"]).generator.path is None


def test_a_run_folder_of_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("mask_generator: {depth: 3}")
    with pytest.raises(ConfigError, match="another version") as caught:
        read_run_config(path)
    assert str(path) in str(caught.value)
    assert "mask_generator.depth" in str(caught.value)


def test_an_unknown_config_lists_the_known_ones_and_a_broken_one_names_its_line(
    tmp_path: Path,
) -> None:
    assert "there are: camvid, cityscapes, demo" in mistakes("config=cityscape")
    broken = tmp_path / "broken.yaml"
    broken.write_text("training: {batch_size: 8\nloss: ce")
    assert "line 2" in mistakes(f"config={broken}")
    broken.write_text("- a\n- b")
    assert "got list" in mistakes(f"config={broken}")


def test_the_resolved_config_is_itself_a_config(tmp_path: Path) -> None:
    config = load_config(["config=demo", "task=super_resolution", "data.splits=[val]", "seed=7"])
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert load_config([f"config={saved}"]) == config


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_config_is_valid(name: str) -> None:
    assert load_config([f"config={name}"]) != RunConfig()


def test_only_what_changes_the_result_counts_as_a_difference() -> None:
    config = RunConfig()
    moved = load_config(["run=elsewhere", "data.threads=7", "training.keep_checkpoints=9"])
    changed = load_config(["training.learning_rate=5e-4", "seed=3"])
    assert differing_keys(config, moved) == []
    assert differing_keys(config, changed) == [
        "seed: 0 -> 3",
        "training.learning_rate: 0.001 -> 0.0005",
    ]


def test_every_harmless_key_is_a_setting() -> None:
    assert set(HARMLESS) <= {key for key, _ in flatten(RunConfig().model_dump())}


def test_terms_follow_the_loss_and_a_weight_of_zero_switches_one_off() -> None:
    assert load_config(["loss=ce_vgg_l1"]).terms == {"ce": 1, "perceptual": 1, "l1": 1}
    assert load_config(["loss=ce_l1", "weights.l1=0"]).terms == {"ce": 1}
    assert load_config(["loss=none"]).terms == {}


def test_help_lists_every_setting_with_its_meaning() -> None:
    shown = subprocess.run(
        [sys.executable, ROOT / "train.py", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for key, _ in flatten(RunConfig().model_dump()):
        line = next(line for line in shown.splitlines() if line.strip().split(" ")[0] == key)
        meaning = shown.splitlines()[shown.splitlines().index(line) + 1]
        assert len(meaning.strip()) > 10, key


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """As in `python train.py --help | head -3`."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--help"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_mistakes_end_a_program_with_status_2_and_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "task=densfy"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "densfy" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["zero_stage=2"], "are DeepSpeed's: write distributed.engine=deepspeed"),
        (["offload_optimizer=true"], "are DeepSpeed's: write distributed.engine=deepspeed"),
        (["engine=deepspeed", "offload_optimizer=true"], "needs zero_stage 1, 2 or 3"),
        (["engine=deepspeed", "zero_stage=4"], "distributed.zero_stage: input should be 0, 1, 2"),
        (["engine=zero"], "distributed.engine: input should be 'ddp' or 'deepspeed'"),
    ],
)
def test_engine_settings_that_do_not_fit(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([f"distributed.{word}" for word in words])
    assert message in str(caught.value)


def test_deepspeed_drives_one_network() -> None:
    with pytest.raises(ConfigError, match=r"trains two networks.*distributed\.engine=ddp"):
        load_config(["task=synthesis", "distributed.engine=deepspeed"])


def test_texts_are_taken_as_they_stand() -> None:
    command = "pipe:curl -H 'A: b' https://host/{} # all"
    assert load_config([f"data.url={command}"]).data.url == command
    assert load_config(["data.url="]).data.url == ""
