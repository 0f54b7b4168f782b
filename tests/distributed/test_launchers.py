"""What a launcher's file and environment ask for: without effect and said so, or refused by name;
never in the arithmetic."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import ROOT, run_program
from tiny_runs import Words, losses_of, run_train

from maskrestore.config.run import load_config
from maskrestore.distributed.launchers import READ_BY_ACCELERATE, refused, take_told
from maskrestore.distributed.processes import make_accelerator
from maskrestore.utils.errors import ConfigError

DEFAULTS = {
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
}
"""What `accelerate launch` sets where nobody asks for anything."""


def start(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> object:
    for name, value in variables.items():
        patch.setenv(name, value)
    return make_accelerator(load_config(["distributed.device=cpu"]), for_training=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DYNAMO_BACKEND", "INDUCTOR"),
        ("DYNAMO_BACKEND", "aot_eager"),
        ("MIXED_PRECISION", "fp16"),
        ("MIXED_PRECISION", "fp8"),
        ("GRADIENT_ACCUMULATION_STEPS", "4"),
        ("GRADIENT_CLIPPING", "0.1"),
        ("DEEPSPEED_CONFIG_FILE", "/no/such/file.json"),
        ("DEEPSPEED_ZERO_STAGE", "3"),
        ("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "nvme"),
        ("DEEPSPEED_OFFLOAD_PARAM_DEVICE", "cpu"),
        ("DOWNCAST_BF16", "yes"),
        ("CPU_AFFINITY", "1"),
        ("DEBUG_MODE", "true"),
    ],
)
def test_what_the_settings_decide_is_said_to_have_no_effect(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    accelerator = start(monkeypatch, DEFAULTS | {f"ACCELERATE_{name}": value})
    assert f"ACCELERATE_{name}={value} has no effect: " in capsys.readouterr().err
    assert accelerator.state.dynamo_plugin.backend == "NO"  # type: ignore[attr-defined]
    assert accelerator.mixed_precision == "no"  # type: ignore[attr-defined]
    assert accelerator.gradient_accumulation_steps == 1  # type: ignore[attr-defined]
    assert not [name for name in os.environ if name.startswith(READ_BY_ACCELERATE)]


def test_nothing_is_said_of_a_launcher_that_asks_for_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(monkeypatch, DEFAULTS)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["abc", "", "2"])
def test_values_that_accelerate_would_stumble_over(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("DEBUG_MODE", "CPU_AFFINITY", "DYNAMO_USE_DYNAMIC", "LOG_LEVEL")
    start(monkeypatch, {f"ACCELERATE_{name}": value for name in names} | {"FORK_LAUNCHED": value})


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("USE_FSDP", "--use_fsdp"),
        ("USE_DEEPSPEED", "--use_deepspeed"),
        ("USE_MEGATRON_LM", "--use_megatron_lm"),
        ("USE_PARALLELISM_CONFIG", "--use_parallelism_config"),
        ("USE_SAGEMAKER", "SageMaker"),
        ("TORCH_DEVICE", "ACCELERATE_TORCH_DEVICE=true: unset it"),
    ],
)
def test_another_way_to_train_is_refused(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=option) as caught:
        start(monkeypatch, DEFAULTS | {f"ACCELERATE_{name}": "true"})
    assert f"ACCELERATE_{name}=true" in str(caught.value)


def test_all_of_them_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("USE_FSDP", "USE_MEGATRON_LM", "TORCH_DEVICE")
    with pytest.raises(ConfigError) as caught:
        start(monkeypatch, {f"ACCELERATE_{name}": "true" for name in names})
    assert len(str(caught.value).splitlines()) == 3


def test_a_cpu_that_the_launcher_wants_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    told, config = take_told(), load_config([])
    [mistake] = refused(told, config, trains=True, use_cpu=False)
    assert "write distributed.device=cpu" in mistake
    assert refused(told, config, trains=True, use_cpu=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("value", ["true", "abc", ""])
def test_megatron_is_no_traceback(
    value: str, words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interpreter of its own: Accelerate looks at this one when it is imported."""
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", value)
    done = run_train(words("run", "loss=ce", "training.num_images=4"), sys.executable)
    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if value else 0)
    assert ("--use_megatron_lm" in done.stderr) == bool(value)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="gpu_ids would hide GPUs")
def test_a_users_file_changes_no_loss(words: Words, tmp_path: Path) -> None:
    """`accelerate launch train.py` beside what `accelerate config` writes, and plain python."""
    file = tmp_path / "hf" / "accelerate" / "default_config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nnum_processes: 1\n"
        "num_machines: 1\nuse_cpu: true\nmixed_precision: fp16\ngpu_ids: '0'\ndebug: true\n"
        "enable_cpu_affinity: true\ndowncast_bf16: 'yes'\n"
        "dynamo_config:\n  dynamo_backend: AOT_EAGER\n  dynamo_use_dynamic: true\n"
    )
    more = ("loss=ce", "training.num_images=8", "training.log_images=4")
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", str(ROOT / "train.py")),
            *words("launched", *more),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert launched.returncode == 0, launched.stderr
    assert "ACCELERATE_DYNAMO_BACKEND=AOT_EAGER has no effect" in launched.stderr
    plain = run_program([str(ROOT / "train.py"), *words("plain", *more)])
    assert plain.returncode == 0, plain.stderr
    assert losses_of(tmp_path / "launched") == losses_of(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("ids", ["0", "0,1", "all"])
def test_the_batch_scripts_words_override_the_users_gpus(tmp_path: Path, ids: str) -> None:
    file = tmp_path / "accelerate" / "default_config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: fp16\n"
        f"gpu_ids: '{ids}'\nnum_machines: 1\nnum_processes: 1\n"
    )
    script = (ROOT / "slurm" / "train.sbatch").read_text()
    command = script[script.index("exec accelerate launch") :].partition("train.py")[0]
    shown = tmp_path / "show.py"
    # In one write: both processes say it into the same pipe.
    told = "os.environ.get('CUDA_VISIBLE_DEVICES')"
    shown.write_text(f'import os\nos.write(1, f"sees {{{told}}}\\n".encode())\n')
    command = command.replace("\\\n", " ").replace(
        "exec accelerate", f"{sys.executable} -m accelerate.commands.accelerate_cli"
    )
    step = {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "HF_HOME": str(tmp_path)}
    shell = ["bash", "-c", f"{command} {shown}", "launcher", "2", "127.0.0.1", "0"]
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(
        shell, capture_output=True, text=True, env=environment | step, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sees None") == 2
