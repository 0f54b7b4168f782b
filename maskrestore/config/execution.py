"""Settings of how a run is executed: processes, health, telemetry. (The others: run.py.)"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from maskrestore.config.settings import Section

Precision = Literal["fp32", "bf16", "fp16"]


class DistributedConfig(Section):
    """Processes, devices and number formats."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU that belongs to this process where there is one."""
    num_processes: NonNegativeInt = 0
    """Processes that the run must come up with, else it stops; 0 is what the launcher says."""
    engine: Literal["ddp", "deepspeed"] = "ddp"
    """What spreads the mask generator over the processes: ddp copies it; deepspeed can cut it up.
    task=synthesis trains two networks, which takes ddp."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """What DeepSpeed cuts up among the processes: 1 the optimizer's state, 2 the gradients as well,
    3 the weights as well; 0 nothing."""
    offload_optimizer: bool = False
    """Keep the optimizer's state in the CPU's memory (zero_stage 1 to 3)."""
    activation_checkpointing: bool = False
    """Compute the activations of the mask generator and of the frozen image generator a second time
    rather than keep them: less memory."""
    precision: Precision = "fp32"
    """Number format of the trained network's operations; weights and optimizer stay fp32. bf16
    pays on CPUs with instructions for it and on GPUs, fp16 needs a GPU."""
    frozen_precision: Precision = "fp32"
    """The same for the frozen networks (lite0 stays in fp32); in fp16 their gradient is scaled so
    that none of it is lost."""
    deterministic: bool = False
    """On a GPU take only operations that give the same bits each time, which cuDNN, cuBLAS and NCCL
    do not by themselves; slower (by how much: not measured). On a CPU they do in any case."""
    cpu_threads: NonNegativeInt = 0
    """Threads of a process on a CPU; 0 leaves the choice to torch."""


class HealthConfig(Section):
    """What a run does about losses that are not finite or jump, and about standstill."""

    max_skipped_steps: PositiveInt = 10
    """Steps in a row with a loss or gradient that is not finite (each is skipped) after which the
    run goes back to its last checkpoint."""
    spike_deviations: NonNegativeFloat = 0.0
    """Standard deviations of the last 128 steps by which a step's loss may exceed their mean before
    the run goes back to its last checkpoint; 0 never goes back for that (OLMo uses 6)."""
    max_rollbacks: NonNegativeInt = 3
    """Times that a run goes back and passes over the bad images before it gives up."""
    watchdog_seconds: NonNegativeFloat = 1800.0
    """Seconds without the end of a step after which the process prints where all its threads stand
    and ends; 0 waits for ever."""


class TelemetryConfig(Section):
    """What a run lets Prometheus read. Nothing of it ever stops a run: what cannot be done is said
    once (docs/monitoring.md)."""

    serve: bool = True
    """Answer Prometheus, on one port per node; false switches all of telemetry off."""
    address: str = "127.0.0.1"
    """Address to listen on: 127.0.0.1 is for this machine alone, 0.0.0.0 for every other."""
    port: Annotated[int, Field(ge=0, lt=65536)] = 0
    """Port to listen on, or the next free one above it, as runs share nodes; 0 is any free one."""
    targets: Path | None = None
    """Folder where Prometheus finds the ports (file_sd); none: `targets` beside the run folder, or
    beside its grid's if there is one there."""
    tls_certificate: Path | None = None
    """File of the certificate (PEM) with which to answer by https; needs telemetry.tls_key."""
    tls_key: Path | None = None
    """File of its private key (PEM)."""
    password_file: Path | None = None
    """File that holds USER:PASSWORD, which Prometheus then has to give (basic authentication)."""
    pushgateway: str = ""
    """Address http://HOST:PORT of a Pushgateway that takes the final figures; empty: none does."""
    peak_flops: NonNegativeFloat = 0.0
    """FLOP/s of one device at best, for the MFU; 0 takes those known for NVIDIA's data centre
    GPUs (bf16, dense), and none for others."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):  # else it would be plain http
            raise ValueError("telemetry.tls_certificate and telemetry.tls_key need each other")
        return self
