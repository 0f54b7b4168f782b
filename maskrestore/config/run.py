"""The settings of a run: defaults, units, checks.

(Of data sets: data.py. Of networks: networks.py. How it is executed: execution.py.)

Defaults live here and nowhere else. A YAML file is a partial overlay; the order is
code < `config=NAME` < `key=value` on the command line. The schema is the whole command line.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from maskrestore.config.data import DataConfig, Seed, split_at_commas
from maskrestore.config.execution import DistributedConfig, HealthConfig, TelemetryConfig
from maskrestore.config.losses import Fraction, ImageLossConfig, WeightsConfig
from maskrestore.config.networks import GeneratorConfig, MaskGeneratorConfig, PerceptualConfig
from maskrestore.config.settings import Section, parse

Task = Literal["synthesis", "densify", "super_resolution"]
Loss = Literal["none", "ce", "ce_vgg", "ce_l1", "ce_vgg_l1"]
Baseline = Literal["input", "fill", "random_walker", "realign", "bilinear"]
Protocol = Literal["paper", "strict"]
Smaller = Literal["smaller_4", "smaller_8", "smaller_16"]
Degradation = Literal["task", "drop", "scribbles", "boundary", "labels", Smaller, "mixture"]
Condition = Literal["mask", "mask_image", "image"]
Target = Literal["true", "given", "nearest", "restored"]
Relaxation = Literal["softmax", "straight_through", "gumbel"]


Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], BeforeValidator(split_at_commas)]


class DegradeConfig(Section):
    """How task=super_resolution makes a mask smaller; sampling: in any other degradation too."""

    factor: Literal[2, 4, 8, 16] = 8
    """Downsampling factor per side."""
    sampling: Literal["corner", "center"] = "corner"
    """Pixel kept of each factor x factor block: its top left corner (the paper's) or its centre
    (protocol=strict's)."""


class TrainingConfig(Section):
    """Length and step size. Progress is counted in images seen, so it means the same on any
    number of devices."""

    num_images: PositiveInt = 300_000
    """Images seen over the whole run, repeats counted (task=synthesis has its own number)."""
    batch_size: PositiveInt = 16
    """Images per optimizer step, over all processes together."""
    accumulation: PositiveInt = 1
    """Parts into which each process cuts its share of a batch, to need less memory."""
    max_gradient_norm: NonNegativeFloat = 0.0
    """Gradients longer than this are shortened to it (L2 norm over all parameters); 0 is never."""
    learning_rate: PositiveFloat = 1e-3
    """Adam learning rate of the mask generator."""
    betas: Betas = (0.9, 0.999)
    """Adam betas of the mask generator (task=synthesis always uses SPADE's 0, 0.9)."""
    decay_start: Fraction = 0.5
    """Fraction 0..1 of the run after which learning rates fall linearly to 0."""
    log_images: PositiveInt = 1_600
    """Images between two lines of metrics.jsonl."""
    checkpoint_images: PositiveInt = 30_000
    """Images between two checkpoints."""
    evaluate_images: PositiveInt = 60_000
    """Images between two evaluations; the last one comes at the end of the run in any case."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints kept in the run folder."""
    save_in_background: bool = False
    """Write checkpoints while training goes on; needs memory for a second copy of the state."""


class EvaluationConfig(Section):
    """What is measured on the val split; the protocol and its reasons: docs/evaluation.md."""

    features: Literal["inception", "lite0"] = "inception"
    """Network of the image distances: inception gives FID and KID; lite0 (offline, no download)
    gives fd_lite0 and kd_lite0, which are never comparable with FID and KID."""
    inception_weights: Path | None = None
    """File pt_inception-2015-12-05-6726825d.pth; none: torch-fidelity downloads it."""
    batch_size: PositiveInt = 16
    """Images per process and forward pass."""
    num_pictures: NonNegativeInt = 4
    """Val samples that are drawn, for samples/ and Figure 2, and as many of the worst and of the
    best by accu."""


class RunConfig(Section):
    """One run: one cell of the table."""

    task: Task = "densify"
    """synthesis trains an image generator; densify restores sparse polygons; super_resolution
    restores a mask that was made `degrade.factor` times smaller."""
    loss: Loss = "ce_vgg_l1"
    """Terms of the restoration loss, as in the paper's columns; none trains nothing."""
    baseline: Baseline = "input"
    """What loss=none evaluates: the input as it is, fill (nearest annotated label; densify),
    random_walker (from the annotation along the image's edges), realign (undo the corner shift;
    super_resolution) or bilinear (the likeliest class of the interpolated one-hot map;
    super_resolution)."""
    protocol: Protocol = "paper"
    """How the task is set and judged. paper: as the paper's figures were made, with their corner
    sampling and all pixels. strict: sampled at the centre, no true edges, and figures over the
    pixels of the 19 evaluated classes."""
    degradation: Degradation = "task"
    """What damages the mask. task: the paper's, coarse polygons or the smaller map. With
    task=densify also drop (polygons left out), scribbles, boundary and labels (an annotator's
    errors at borders and in names), smaller_4 and the like, or mixture: each sample its own."""
    condition: Condition = "mask"
    """What the mask generator sees: the incomplete mask (the paper), the real image too, or the
    image alone, a control that shows what the mask is worth."""
    target: Target = "true"
    """What the cross entropy compares with: the true masks, or what somebody without them would
    train on: the incomplete ones as they are given, each pixel's nearest label, or masks that the
    run `teacher` restores. With condition=image this tells what restored masks are worth."""
    teacher: Path | None = None
    """Folder of the finished run whose mask generator restores the masks of target=restored (and of
    no other target)."""
    synthesized_images: Fraction = 0.0
    """Share 0..1 of the training images that the mask generator sees as the image generator draws
    them from their true masks: further pairs of image and mask."""
    relaxation: Relaxation = "softmax"
    """What of the restored mask the image generator sees in training: class probabilities, or
    hard classes with a gradient, the likeliest (straight_through) or drawn ones (gumbel)."""
    run: Path = Path("runs/run")
    """Folder of this run; the same command again resumes it."""
    seed: Seed = 0
    """Seed of weights, sample order and augmentation."""
    accept_changed_code: bool = False
    """Resume although the code is no longer the one that the run was started with."""
    data: DataConfig = DataConfig()
    degrade: DegradeConfig = DegradeConfig()
    mask_generator: MaskGeneratorConfig = MaskGeneratorConfig()
    generator: GeneratorConfig = GeneratorConfig()
    perceptual: PerceptualConfig = PerceptualConfig()
    weights: WeightsConfig = WeightsConfig()
    image_loss: ImageLossConfig = ImageLossConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    distributed: DistributedConfig = DistributedConfig()
    health: HealthConfig = HealthConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="before")
    @classmethod
    def _sample_strictly(cls, values: Any) -> Any:
        """protocol=strict sets the sampling where nothing else does."""
        if isinstance(values, dict) and values.get("protocol") == "strict":
            degrade = values.get("degrade", {})
            if isinstance(degrade, dict):
                values = values | {"degrade": {"sampling": "center"} | degrade}
        return values

    @model_validator(mode="after")
    def _check(self) -> Self:
        smaller = "super_resolution"
        needed = {"fill": "densify", "realign": smaller, "bilinear": smaller}.get(
            self.baseline, self.task
        )
        if self.baseline != "input" and self.loss != "none":
            raise ValueError(
                f"baseline={self.baseline} is evaluated without training, but loss={self.loss}: "
                "write loss=none, or leave baseline out"
            )
        if self.baseline == "random_walker" and self.task == "synthesis":
            raise ValueError("baseline=random_walker is for task=densify or super_resolution")
        if self.task != needed:
            raise ValueError(f"baseline={self.baseline} is for task={needed}, not task={self.task}")
        if self.target == "restored" and self.teacher is None:
            raise ValueError("target=restored needs teacher=RUN, the run that restores the masks")
        if self.target == "given" and self.task != "densify":
            raise ValueError("target=given is for task=densify: a smaller map has no gaps")
        if self.synthesized_images and not self.image_channels:
            raise ValueError(
                "synthesized_images is for condition=mask_image or image: without them no image "
                "is seen"
            )
        if self.degradation != "task" and self.task != "densify":
            raise ValueError(
                f"degradation={self.degradation} is for task=densify, not task={self.task}: write "
                "degradation=task, or task=densify"
            )
        if self.task != "synthesis" and self.trains:
            self._check_losses()
        if self.protocol == "strict" and self.task != "synthesis":
            self._check_strict()
        draws = self.trains and ({"perceptual", "l1"} & set(self.terms) or self.synthesized_images)
        self.data.check_crop(self.trains_generator, bool(draws))
        distributed = self.distributed
        if distributed.engine == "ddp" and (
            distributed.zero_stage or distributed.offload_optimizer
        ):
            raise ValueError(
                "distributed.zero_stage and distributed.offload_optimizer are DeepSpeed's: write "
                "distributed.engine=deepspeed with them, or leave them out"
            )
        if distributed.offload_optimizer and not distributed.zero_stage:
            raise ValueError("distributed.offload_optimizer=true needs zero_stage 1, 2 or 3")
        if self.trains_generator and (self.generator.size or self.generator.style != "zero"):
            raise ValueError(
                "generator.size and generator.style are for a given image generator, and "
                "task=synthesis trains one: leave them out"
            )
        if distributed.engine == "deepspeed" and self.trains_generator:
            raise ValueError(
                "task=synthesis trains two networks, but distributed.engine=deepspeed drives one: "
                "write distributed.engine=ddp"
            )
        return self

    def _check_losses(self) -> None:
        image_loss = self.image_loss
        self.data.check_classes()
        if not self.terms:
            raise ValueError(
                f"loss={self.loss} with weights of 0 trains nothing: write loss=none, or a weight"
            )
        if "ce" not in self.terms and (image_loss.start or image_loss.gradient):
            raise ValueError(
                "image_loss.start and image_loss.gradient need the cross entropy, which "
                "weights.ce=0 switches off"
            )
        if image_loss.pixels == "unannotated" and self.task != "densify":
            raise ValueError(
                "image_loss.pixels=unannotated is for task=densify: a smaller map has no gaps"
            )
        if image_loss.start and self.health.spike_deviations:
            raise ValueError(
                "health.spike_deviations would take the beginning of the image terms for a jump of "
                "the loss: write health.spike_deviations=0, or image_loss.start=0"
            )
        if self.data.num_true_masks:
            unfit = {
                "data.shuffle_shards": self.data.shuffle_shards,
                "weights.class_balance": self.weights.class_balance,
                "image_loss.gradient": image_loss.gradient,
            }
            names = [name for name, value in unfit.items() if value]
            if names or self.target != "true":
                raise ValueError(
                    "data.num_true_masks leaves most samples without a true mask: write "
                    f"{' and '.join(f'{name}=0' for name in names) or 'target=true'}"
                )

    def _check_strict(self) -> None:
        if self.generator.edges == "instance":
            raise ValueError(
                "protocol=strict allows no true edges: write generator.edges=argmax, soft or zeros"
            )
        if self.degrade.sampling == "corner":
            raise ValueError(
                "protocol=strict samples at the centre, but degrade.sampling=corner: write "
                "degrade.sampling=center, or protocol=paper"
            )

    @property
    def trains(self) -> bool:
        """Whether this run trains anything; loss=none only evaluates."""
        return self.loss != "none"

    @property
    def trains_generator(self) -> bool:
        """Whether this run trains an image generator, rather than use one."""
        return self.task == "synthesis" and self.trains

    @property
    def total_images(self) -> int:
        """Images that training sees: 0 for a run that only evaluates."""
        if not self.trains:
            return 0
        return (self.generator if self.task == "synthesis" else self.training).num_images

    @property
    def image_channels(self) -> int:
        """Channels of the real image that the mask generator sees: 3, or 0 with condition=mask."""
        return 0 if self.condition == "mask" else 3

    @property
    def terms(self) -> dict[str, float]:
        """Weight of each active term of the restoration loss: ce, lovasz, perceptual, l1."""
        names = {"none": (), "ce": ("ce", "lovasz"), "vgg": ("perceptual",), "l1": ("l1",)}
        parts = [name for part in self.loss.split("_") for name in names[part]]
        weights = {name: float(getattr(self.weights, name)) for name in parts}
        return {name: weight for name, weight in weights.items() if weight > 0}


def load_config(arguments: Sequence[str]) -> RunConfig:
    """The RunConfig that the words of a command line describe."""
    return parse(RunConfig, arguments)
