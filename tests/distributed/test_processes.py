"""How processes come together: launchers, the tasks of a SLURM step, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import ROOT, start_program
from tiny_runs import Words, end_of, free_port, listens, run_train, wait_until

from maskrestore.config.run import load_config
from maskrestore.distributed.places import first_host, join_slurm_step
from maskrestore.distributed.processes import make_accelerator
from maskrestore.utils.errors import ConfigError, UserError

ON_CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def mistakes(monkeypatch: pytest.MonkeyPatch, world_size: int, *words: str) -> str:
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    with pytest.raises(ConfigError) as caught:
        make_accelerator(load_config(["distributed.device=cpu", *words]), for_training=True)
    return str(caught.value)


def test_a_batch_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    message = mistakes(monkeypatch, 3, "training.batch_size=4")
    assert (
        "training.batch_size=4 cannot be shared evenly by 3 processes: write a multiple of 3"
        in (message)
    )
    message = mistakes(monkeypatch, 2, "training.batch_size=6", "training.accumulation=2")
    assert "by 2 processes with training.accumulation=2: write a multiple of 4" in message


def test_all_mistakes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    message = mistakes(
        monkeypatch,
        3,
        "distributed.precision=fp16",
        "distributed.frozen_precision=fp16",
        "distributed.num_processes=4",
        "training.batch_size=16",
    )
    assert len(message.splitlines()) == 5
    assert "distributed.precision=fp16 needs a GPU: write bf16 or fp32 on a CPU" in message
    assert "distributed.frozen_precision=fp16 needs a GPU" in message
    assert "distributed.num_processes=4, but 3 came up" in message
    assert "accelerate launch was told --use_deepspeed" in message


@ON_CPU
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        make_accelerator(load_config(["distributed.device=cuda"]), for_training=True)


def test_deepspeed_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # what an import then finds: nothing
    words = ["distributed.engine=deepspeed", "distributed.device=cpu"]
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[deepspeed\]'"):
        make_accelerator(load_config(words), for_training=True)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node[1-4]", "node1"),
        ("rack2-n[07-09,11],login", "rack2-n07"),
        ("a1,b2", "a1"),
        ("gpu[3,5]-ib", "gpu3-ib"),
    ],
)
def test_the_first_node_of_a_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_a_list_of_nodes_that_is_none() -> None:
    with pytest.raises(UserError, match="SLURM_STEP_NODELIST="):
        first_host("[1-2]")


def test_a_launchers_words_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    join_slurm_step()
    assert "MASTER_ADDR" not in os.environ


def tiny(words: Words, *more: str) -> list[str]:
    return words("run", "loss=ce", "training.num_images=8", "training.log_images=4", *more)


def processes_of(run: Path) -> set[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["num_processes"] for line in lines if "losses" in line}


@pytest.mark.slow
def test_the_tasks_of_a_slurm_step_find_each_other(words: Words, tmp_path: Path) -> None:
    """With the variables that srun sets; on a real SLURM with issue 4's cluster."""
    ranks = []
    for task in range(2):
        step = {
            "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_ID": "0",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task),
            "OMP_NUM_THREADS": "1",
        }
        ranks.append(start_program([str(ROOT / "train.py"), *tiny(words)], step))
    statuses, errors = end_of(ranks)
    assert statuses == [0, 0], errors
    assert processes_of(tmp_path / "run") == {2}


@pytest.mark.slow
@ON_CPU
def test_accelerate_launch_on_two_machines(words: Words, tmp_path: Path) -> None:
    """Two launchers that meet over c10d, as in slurm/README.md, with one process each. (With DDP:
    tests/system/test_slurm_submit.py.)"""
    more = ["distributed.num_processes=2", "distributed.engine=deepspeed"]
    machines, port = [], free_port()
    for machine in range(2):
        launcher = [
            *(sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"),
            *("--multi_gpu", "--num_machines", "2", "--num_processes", "2"),
            *("--machine_rank", str(machine), "--main_process_ip", "127.0.0.1"),
            *("--main_process_port", str(port)),
            *("--rdzv_backend", "c10d", "--gpu_ids", "all"),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
        ]
        machines.append(
            subprocess.Popen(
                [*launcher, str(ROOT / "train.py"), *tiny(words, *more)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        )
        # The launcher of machine 0 takes the port for somebody else's where the other one, on the
        # same machine here, has opened it first.
        wait_until(lambda: listens(port), machines)
    statuses, errors = end_of(machines, timeout=500)
    assert statuses == [0, 0], errors
    assert processes_of(tmp_path / "run") == {2}
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.slow
@ON_CPU
@pytest.mark.parametrize("stage", [0, 3])
def test_plain_python_with_deepspeed(words: Words, tmp_path: Path, stage: int) -> None:
    more = ("distributed.engine=deepspeed", f"distributed.zero_stage={stage}")
    done = run_train(tiny(words, *more), *([sys.executable] if stage else []))
    assert done.returncode == 0, done.stderr
    assert "OVERFLOW" not in done.stderr
    assert processes_of(tmp_path / "run") == {1}
