"""Who belongs to a run: what the shell's variables say, and whom one waits for."""

import os
import signal
import socket
import time
from pathlib import Path

import null_gpu
import pytest
from forked import ROOT, start_program
from tiny_runs import Words, end_of, free_port, run_ranks, start_ranks

from maskrestore.config.run import load_config
from maskrestore.distributed.places import join_slurm_step
from maskrestore.distributed.processes import make_accelerator
from maskrestore.utils.errors import ConfigError
from maskrestore.utils.launcher import forget_launchers, is_first_process

STEP = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
WHOLE = {
    "RANK": "0",
    "WORLD_SIZE": "2",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def _outside_of_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*STEP, *WHOLE, "SLURM_PTY_PORT", "SLURM_TASK_PID"):
        monkeypatch.setenv(name, "to be deleted")  # so that all is put back that a test sets
        monkeypatch.delenv(name)


def mistake(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        patch.setenv(name, value)
    config = load_config(["distributed.device=cpu", "training.batch_size=4"])
    with pytest.raises(ConfigError) as caught:
        make_accelerator(config, for_training=True)
    return str(caught.value)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": ""}, "WORLD_SIZE='' is no number of processes"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two' is no number of processes"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' is no number of processes"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE='-1' is no number of processes"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK=0 without RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK='' is no number"),
        ({"RANK": "1"}, "RANK=1 without WORLD_SIZE"),
        ({"RANK": "0"}, "RANK=0 without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 without RANK"),
        (WHOLE | {"MASTER_ADDR": ""}, "without MASTER_ADDR"),
        (WHOLE | {"MASTER_PORT": ""}, "without MASTER_PORT"),
        (WHOLE | {"MASTER_PORT": "abc"}, "MASTER_PORT=abc is no port"),
        (WHOLE | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is no port"),
        (WHOLE | {"RANK": "2"}, "RANK=2 is not below WORLD_SIZE=2"),
        (WHOLE | {"RANK": "x", "LOCAL_RANK": "y"}, "RANK='x' is no number"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2, but MPI does not start"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE=4, but MPI does not start"),
        (STEP | {"SLURM_JOB_ID": ""}, "SLURM_JOB_ID=''"),
        (STEP | {"SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS='x'"),
    ],
)
def test_numbers_that_are_none(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = mistake(monkeypatch, variables)
    assert message in text
    assert "unset" in text or "write a number" in text or "numbers from 0" in text


def test_all_wrong_numbers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(mistake(monkeypatch, WHOLE | {"RANK": "x", "LOCAL_RANK": "y"}).splitlines()) == 2
    assert len(mistake(monkeypatch, WHOLE | {"RANK": "7", "MASTER_PORT": "0"}).splitlines()) == 2


@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "1"},  # as batch scripts export them
        {"PMI_SIZE": "1", "PMI_RANK": "0"},
        STEP | {"SLURM_STEP_NUM_TASKS": "1"},
        STEP | {"SLURM_PTY_PORT": "40000"},
        STEP | {"SLURM_PTY_PORT": "40000", "SLURM_JOB_NAME": "bash", "PMI_SIZE": "2"},
        {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"},  # salloc
    ],
)
def test_variables_that_leave_one_alone(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator(load_config(["distributed.device=cpu"]), for_training=True)
    assert accelerator.num_processes == 1
    assert ("going on alone" in capsys.readouterr().err) == ("SLURM_PTY_PORT" in variables)


def test_a_step_that_was_started_in_such_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """It inherits the shell's port, but its tasks read no terminal."""
    for name, value in (STEP | {"SLURM_PTY_PORT": "40000"}).items():
        monkeypatch.setenv(name, value)
    with open(os.devnull) as nothing:
        kept = os.dup(0)
        os.dup2(nothing.fileno(), 0)
        try:
            monkeypatch.setenv("SLURM_TASK_PID", str(os.getpid()))
            join_slurm_step()
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    assert os.environ["WORLD_SIZE"] == "2"


@pytest.mark.parametrize(
    ("variables", "is_first"),
    [
        ({}, True),
        ({"RANK": "1"}, True),  # of a shell: nobody else would speak
        ({"RANK": "1", "WORLD_SIZE": "x"}, True),
        ({"RANK": "0", "WORLD_SIZE": "2"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2"}, False),
    ],
)
def test_who_speaks(
    variables: dict[str, str], is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == is_first


def test_forgetting_launchers(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"SLURM_CONF": "/etc/slurm.conf", "PATH": os.environ["PATH"]}
    for name, value in (STEP | WHOLE | kept | {"TORCHELASTIC_RUN_ID": "x"}).items():
        monkeypatch.setenv(name, value)
    forget_launchers()
    assert not {*STEP, *WHOLE, "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    assert all(os.environ[name] == value for name, value in kept.items())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("rank", [0, 1])
def test_waiting_is_told_and_ends_by_a_signal(words: Words, rank: int, number: int) -> None:
    own = WHOLE | {"RANK": str(rank), "MASTER_PORT": str(free_port())}
    waiting = start_program([str(ROOT / "train.py"), *words("run", "loss=ce")], own)
    time.sleep(20)
    assert waiting.poll() is None
    waiting.send_signal(number)
    began = time.monotonic()
    _, errors = waiting.communicate(timeout=30)
    assert time.monotonic() - began < 10
    status = waiting.returncode
    assert status in ((130, -2) if number == signal.SIGINT else (143, -15))
    assert f"process {rank} of 2 at localhost:{own['MASTER_PORT']}, waiting since" in errors
    absent = "number 1 not yet" if rank == 0 else "process 0 does not answer"
    assert absent in errors
    assert "unset RANK WORLD_SIZE LOCAL_RANK" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_more_processes_than_gpus(words: Words) -> None:
    given = words("run", "loss=ce", "training.batch_size=6", "distributed.device=cuda")
    ranks = start_ranks(given, 3, environment=null_gpu.environment(DEVICES="2"))
    statuses, errors = end_of(ranks)
    assert statuses == [2, 2, 2], errors
    host = socket.gethostname()
    assert f"{host} has 3 processes of this run, and they see 2 GPUs: 0 and 2 have" in errors[0]
    assert "Traceback" not in "".join(errors)


@pytest.mark.slow
def test_one_process_may_take_longer_over_the_shards_than_the_others_wait(
    words: Words, tmp_path: Path
) -> None:
    """A fetch of 20 seconds, where a collective may take 8."""
    given = words("run", "loss=ce", "data.bad_shards=skip", "health.watchdog_seconds=8")
    environment = {"SLOW_SHARDS": "1:20", "PYTHONPATH": str(ROOT)}
    program = ROOT / "tests" / "programs" / "slow_shards.py"
    statuses, errors = run_ranks(given, 2, program=program, environment=environment)
    assert statuses == [0, 0], errors
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.slow
def test_patience_that_runs_out(words: Words) -> None:
    own = STEP | {"SLURM_JOB_ID": str(os.getpid())}
    train = [str(ROOT / "train.py"), *words("run", "loss=ce", "health.watchdog_seconds=2")]
    waiting = start_program(train, own)
    _, errors = waiting.communicate(timeout=60)
    assert waiting.returncode == 1  # another start may find the others
    assert "gave up: 1 of 2 processes are there, number 1 not yet" in errors
    assert "unset RANK WORLD_SIZE LOCAL_RANK SLURM_STEP_NUM_TASKS" in errors
    assert "Traceback" not in errors
