"""Tiny runs and what they leave, for the tests that train."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from forked import ROOT, Process, run_program, start_program
from processes import PATIENCE

TINY = (
    "data.size=32x64",
    "mask_generator.width=4",
    "mask_generator.hidden=8",
    "generator.width=4",
    "generator.hidden=8",
    "generator.discriminator_width=4",
    "generator.num_images=16",
    "perceptual.network=lite0",
    "evaluation.features=lite0",
    "evaluation.num_pictures=2",
    "training.batch_size=4",
    "training.num_images=32",
    "training.log_images=8",
    "training.checkpoint_images=8",
    "distributed.device=cpu",
    "distributed.cpu_threads=1",
)
ENGINES = {
    "ddp": ("distributed.engine=ddp",),
    "zero2": ("distributed.engine=deepspeed", "distributed.zero_stage=2"),
}
Words = Callable[..., list[str]]


def run_train(words: list[str], *launcher: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "train.py"), *words]
    return (
        subprocess.run([*launcher, *command], capture_output=True, text=True, timeout=300)
        if launcher
        else run_program(command)
    )


def torchrun(number: int) -> tuple[str, ...]:
    """On CPUs `accelerate launch --cpu --num_processes 2` starts a single process."""
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    return (*run, "--nproc_per_node", str(number))


def lines_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses_of(run: Path) -> list[tuple[int, dict[str, float]]]:
    return [(line["num_images"], line["losses"]) for line in lines_of(run) if "losses" in line]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start_ranks(
    words: list[str],
    number: int,
    folders: list[Path] | None = None,
    program: Path = ROOT / "train.py",
    environment: dict[str, str] | None = None,
    uses_deepspeed: bool = False,
) -> list[Process]:
    """`number` processes as a scheduler starts them, without a launcher that would hide who ended
    how. folders: where each one is started. environment: more of it."""
    port = free_port()
    ranks = []
    for rank in range(number):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": number, "OMP_NUM_THREADS": 1}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {name: str(value) for name, value in (own | address).items()}
        folder = folders[rank] if folders else None
        command, variables = [str(program), *words], variables | (environment or {})
        ranks.append(start_program(command, variables, folder, uses_deepspeed))
    return ranks


def end_of(ranks: Sequence[Process], timeout: float = 2 * PATIENCE) -> tuple[list[int], list[str]]:
    """Exit status and stderr of each; a process that hangs fails the test."""
    deadline = time.monotonic() + timeout
    try:
        errors = [rank.communicate(timeout=deadline - time.monotonic())[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [rank.returncode for rank in ranks], errors


def run_ranks(words: list[str], number: int, **more: Any) -> tuple[list[int], list[str]]:
    """start_ranks, and how they ended."""
    return end_of(start_ranks(words, number, **more))


def wait_until(condition: Callable[[], bool], ranks: Sequence[Process]) -> None:
    """Until the condition holds while all processes live."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        ended = [rank for rank in ranks if rank.poll() is not None]
        assert not ended, ended[0].communicate()[1]
        time.sleep(0.01)
