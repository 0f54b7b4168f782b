"""What settings ask of the processes and devices that a run gets: told before it starts, by those
who submit it, and when it does."""

from maskrestore.config.run import RunConfig


def uneven_share(config: RunConfig, num_processes: int, unit: str = "processes") -> list[str]:
    """What is wrong with training.batch_size, if so many cannot share it evenly."""
    size, parts = config.training.batch_size, config.training.accumulation
    if size % (num_processes * parts) == 0:
        return []
    accumulation = f" with training.accumulation={parts}" if parts > 1 else ""
    return [
        f"training.batch_size={size} cannot be shared evenly by {num_processes} {unit}"
        f"{accumulation}: write a multiple of {num_processes * parts}"
    ]


def needs_gpu(config: RunConfig, remedy: str = ": write bf16 or fp32 on a CPU") -> list[str]:
    """What is wrong with the number formats, where there is no GPU."""
    return [
        f"distributed.{name}=fp16 needs a GPU{remedy}"
        for name in ("precision", "frozen_precision")
        if getattr(config.distributed, name) == "fp16"
    ]


def without_order(config: RunConfig) -> list[str]:
    """What asks a GPU for the same bits each time, where PyTorch has no such form."""
    size = config.data.height_width
    drawn = config.generator.size_for(size)
    is_whole = all(a % b == 0 for a, b in zip(drawn, size, strict=True))
    has_gradient = bool({"perceptual", "l1"} & config.terms.keys())
    if is_whole or not has_gradient or not config.distributed.deterministic:
        return []
    return [
        f"generator.size={config.generator.size}: with distributed.deterministic=true write "
        f"multiples of the sides of data.size={config.data.size}"
    ]


def less_memory(config: RunConfig, num_processes: int) -> list[str]:
    """What to set so that training takes less memory, the least costly first."""
    training, distributed = config.training, config.distributed
    share = training.batch_size // (num_processes * training.accumulation)
    remedies = []
    if share > 1:
        factor = next(n for n in range(2, share + 1) if share % n == 0)
        parts = training.accumulation
        remedies.append(f"training.accumulation={parts * factor} (now {parts})")
    if not config.trains_generator and not distributed.activation_checkpointing:
        remedies.append("distributed.activation_checkpointing=true")
    formats = {"precision": "bf16"}
    if config.trains_generator or {"perceptual", "l1"} & config.terms.keys():
        formats["frozen_precision"] = "fp16"
    remedies += [
        f"distributed.{name}={half}"
        for name, half in formats.items()
        if getattr(distributed, name) == "fp32" and distributed.device != "cpu"
    ]
    if num_processes > 1 and not config.trains_generator and distributed.zero_stage < 2:
        remedies.append("distributed.engine=deepspeed distributed.zero_stage=2")
    if training.batch_size > 1:
        remedies.append(f"a smaller training.batch_size (now {training.batch_size})")
    return remedies
