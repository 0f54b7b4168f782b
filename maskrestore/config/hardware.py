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
