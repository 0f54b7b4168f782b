"""DeepSpeed's engine: the optimizer's state, the gradients and the weights cut up among processes
(ZeRO stages 1, 2, 3; Rajbhandari et al. 2020). The one home of deepspeed.

Imported only where distributed.engine=deepspeed asks for it; everything else runs without.
"""

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin
from torch import Tensor, nn

from maskrestore.config.run import RunConfig
from maskrestore.distributed.engine import START_SCALE, State, load_moments, poisoned, trained
from maskrestore.utils.errors import ConfigError

BUCKET = 50_000_000
"""Elements exchanged at a time. DeepSpeed's "auto" asks for a language model's hidden size."""
MOMENTS = ("exp_avg", "exp_avg_sq")


def make_plugin(config: RunConfig, num_processes: int, use_cpu: bool) -> DeepSpeedPlugin:
    """What tells Accelerate to use DeepSpeed, and how.

    Raises ConfigError if DeepSpeed is not installed, or the CPU is asked for beside a GPU.
    """
    if use_cpu and torch.cuda.is_available():
        raise ConfigError(
            "distributed.device=cpu: DeepSpeed takes the GPU that it sees; hide it with "
            "CUDA_VISIBLE_DEVICES= in front of the command, or write distributed.engine=ddp"
        )
    if use_cpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed.ops
        import transformers  # noqa: F401 - Accelerate asks for its version
        from deepspeed.utils import logger
    except ImportError as error:
        raise ConfigError(
            f"distributed.engine=deepspeed: {error}; install it with `pip install -e "
            "'.[deepspeed]'`, or write distributed.engine=ddp"
        ) from error
    # Its own all-reduce for the processes of a CPU would be compiled at first use, for a minute,
    # and only where there is a compiler: gloo's adds in the same order on every machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logger.setLevel(logging.ERROR)  # a step that it leaves out is told by health.py, with its keys
    if "WORLD_SIZE" not in os.environ and not torch.distributed.is_initialized():
        # Plain python, which no launcher started: DeepSpeed would look for MPI.
        os.environ.setdefault("LOCAL_RANK", "0")
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        backend = "gloo" if use_cpu else "nccl"
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    return DeepSpeedPlugin(hf_ds_config=_settings(config, num_processes))


def _settings(config: RunConfig, num_processes: int) -> dict[str, Any]:
    training, distributed = config.training, config.distributed
    parts = num_processes * training.accumulation
    zero: dict[str, Any] = {
        "stage": distributed.zero_stage,
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "stage3_prefetch_bucket_size": BUCKET,
        "stage3_param_persistence_threshold": 10_000,
    }
    if distributed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    kinds = {"bf16": "bfloat16", "fp16": "float16"}
    return {
        "train_micro_batch_size_per_gpu": training.batch_size // parts,
        "gradient_accumulation_steps": training.accumulation,
        "gradient_clipping": training.max_gradient_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # As under DDP: operations in half precision, weights and optimizer in float32.
        "torch_autocast": {
            "enabled": distributed.precision in kinds,
            "dtype": kinds.get(distributed.precision, "bfloat16"),
        },
        "steps_per_print": 2**62,
    }


class Sharded:
    """One network in DeepSpeed's engine; engine.Engine says what its methods promise."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: RunConfig,
        network: nn.Module,
        betas: tuple[float, float],
        state: State | None,
    ) -> None:
        self._bare = network
        self._stage = config.distributed.zero_stage
        self._plain = copy.deepcopy(network) if self._stage == 3 else None
        # torch's own, so that every engine computes the same; fused, see engine.Replicated.
        self._adam: Any = torch.optim.Adam(trained(network), betas=betas, fused=True)
        self._engine: Any
        self._engine, _ = accelerator.prepare(network, self._adam)
        # The scale of fp16, as torch's GradScaler keeps it, else empty. DeepSpeed's own use of one
        # clips the scaled gradient at stages 1 to 3, and never lowers a scale that overflows.
        fp16 = config.distributed.precision == "fp16"
        scaler = torch.amp.GradScaler(accelerator.device.type, START_SCALE, enabled=fp16)
        self._scaling = scaler.state_dict()
        self._engine.torch_autocast_z0_gradscaler = None
        if self._stage:
            self._engine.optimizer.torch_autocast_gradscaler = None
        if state is not None:
            if fp16:
                self._scaling |= state["scaler"]
            if state["optimizer"]["step"]:
                self._load(state["optimizer"])
        self._tell_scale()
        self.network: nn.Module = self._engine

    @contextmanager
    def part(self, is_last: bool) -> Iterator[None]:
        """See Engine."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        yield
        if not is_last:
            self._engine.step()  # counts the part, and keeps its gradient

    def backward(self, loss: Tensor) -> None:
        """See Engine."""
        if self._scaling and not self._stage:  # else DeepSpeed scales it
            loss = loss * self._scaling["scale"]
        self._engine.backward(poisoned(loss), scale_wrt_gas=False)

    def step(self, learning_rate: float) -> Tensor:
        """See Engine. At stages 1 to 3 DeepSpeed itself waits for the device here; so does fp16."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        if self._stage:
            self._engine.step()  # leaves out what is not finite, and calls its norm inf
            told = self._engine.get_global_grad_norm()  # a number, or a tensor
            norm = torch.as_tensor(told, dtype=torch.float32, device=self._engine.device)
        else:  # the bare optimizer, which has no such guard
            gradients = [p.grad for p in self._bare.parameters() if p.grad is not None]
            if self._scaling:
                for gradient in gradients:
                    gradient.div_(self._scaling["scale"])
            norm = nn.utils.get_total_norm(gradients)
            self._adam.found_inf = (~norm.isfinite()).float()
            self._engine.step()
        if self._scaling:
            self._rescale(bool(norm.isfinite()))
        return norm

    def _rescale(self, fits: bool) -> None:
        """What torch's GradScaler.update does, from a norm that all processes share."""
        scaling = self._scaling
        scaling["_growth_tracker"] = scaling["_growth_tracker"] + 1 if fits else 0
        if not fits:
            scaling["scale"] *= scaling["backoff_factor"]
        elif scaling["_growth_tracker"] == scaling["growth_interval"]:
            scaling["scale"] *= scaling["growth_factor"]
            scaling["_growth_tracker"] = 0
        self._tell_scale()

    def _tell_scale(self) -> None:
        if self._scaling and self._stage:
            self._engine.optimizer.override_loss_scale(self._scaling["scale"])

    def loss_scale(self) -> Tensor:
        """See Engine."""
        return torch.full((), self._scaling.get("scale", 1.0), device=self._engine.device)

    def whole(self) -> nn.Module:
        """See Engine. At stage 3 a copy, since the network itself is in pieces."""
        if self._plain is None:
            return self._bare
        self._plain.load_state_dict(self._weights())
        return self._plain

    def state(self) -> State:
        """See Engine."""
        step = max((int(kept["step"]) for kept in self._adam.state.values()), default=0)
        is_main = self._engine.global_rank == 0
        moments: dict[str, list[Tensor]] = {}
        for name, parameter in self._bare.named_parameters() if step else ():
            if not parameter.requires_grad:
                continue
            for key in MOMENTS:
                whole = self._moment(parameter, key)
                if is_main:  # the others only take part: whole moments would fill their memory
                    moments.setdefault(name, []).append(whole.cpu())
        weights = self._weights()
        return {
            "weights": weights if is_main else {},
            "optimizer": {"step": step, "moments": moments},
            "scaler": dict(self._scaling),
        }

    def _weights(self) -> dict[str, Tensor]:
        if self._stage < 3:
            return self._bare.state_dict()
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self._bare.parameters())):
            return {name: tensor.clone() for name, tensor in self._bare.state_dict().items()}

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        if not self._stage:
            return self._adam.state[parameter][key]  # type: ignore[no-any-return]
        from deepspeed.utils import safe_get_full_optimizer_state

        moment: Tensor = safe_get_full_optimizer_state(parameter, key)
        return moment

    def _load(self, saved: State) -> None:
        """Put whole moments into this process's pieces."""
        if not self._stage:
            load_moments(self._adam, dict(self._bare.named_parameters()), saved)
            return
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        zero = self._engine.optimizer
        pieces = (
            zero.fp32_partitioned_groups_flat
            if self._stage == 3
            else zero.single_partition_of_fp32_groups
        )
        for piece in pieces:
            self._adam.state[piece] = {
                "step": torch.tensor(float(saved["step"]), device=piece.device),
                **{key: torch.zeros_like(piece) for key in MOMENTS},
            }
        if self._stage < 3:  # DeepSpeed does so after its first step
            zero._lazy_init_hp_params_optimizer_state()
        for name, parameter in self._bare.named_parameters():
            if not parameter.requires_grad:
                continue
            for key, whole in zip(MOMENTS, saved["moments"][name], strict=True):
                whole = whole.to(self._engine.device)
                if self._stage < 3:
                    safe_set_full_optimizer_state(parameter, whole, key)
                    continue
                size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
                padded = nn.functional.pad(
                    whole.flatten(), (0, size * self._engine.dp_world_size - whole.numel())
                )
                mine = padded.narrow(0, size * self._engine.global_rank, size)
                safe_set_local_optimizer_state(parameter, mine, key)
