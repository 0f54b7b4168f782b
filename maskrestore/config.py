"""The settings of a run: defaults, units, checks. (How it is operated: operation.py.)

Defaults live here and nowhere else. A YAML file is a partial overlay; the order is
code < `config=NAME` < `key=value` on the command line. The schema is the whole command line.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from maskrestore.operation import DistributedConfig, HealthConfig, TelemetryConfig
from maskrestore.settings import Section, parse

Task = Literal["synthesis", "densify", "super_resolution"]
Loss = Literal["none", "ce", "ce_vgg", "ce_l1", "ce_vgg_l1"]
Baseline = Literal["input", "fill", "realign"]
Edges = Literal["argmax", "soft", "zeros", "instance"]
SourceName = Literal["streetscenes", "cityscapes", "camvid"]


def _height_and_width(text: str) -> str:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise ValueError("write height x width in pixels, such as 256x512")
    if int(height) % 32 or int(width) % 32:
        raise ValueError("height and width must be multiples of 32: the generators double 5 times")
    return text


def _split_at_commas(value: Any) -> Any:
    return tuple(map(str.strip, value.split(","))) if isinstance(value, str) else value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("write each name once, with a comma between two")
    return names


Size = Annotated[str, AfterValidator(_height_and_width)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_split_at_commas),
    AfterValidator(_each_once),
    Field(min_length=1),
]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[tuple[Beta, Beta], BeforeValidator(_split_at_commas)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class SourceConfig(Section):
    """Where shards come from. `shards/write.py` needs these; a run only reads the result."""

    source: SourceName = "streetscenes"
    """What to shard: procedural street scenes, or a folder in the Cityscapes or CamVid layout."""
    root: Path | None = None
    """Folder of the raw data set; not used by streetscenes."""
    size: Size = "96x192"
    """Height x width in pixels to which everything is resized; multiples of 32."""
    splits: Names = ("train", "val")
    """Splits to shard, as train,val (cityscapes also has train_extra, which nobody annotated
    finely: its fine mask is its coarse one)."""
    num_train: PositiveInt = 512
    """Scenes drawn for train (streetscenes only)."""
    num_val: PositiveInt = 64
    """Scenes drawn for val (streetscenes only)."""
    source_seed: Seed = 0
    """Seed of the drawn scenes and of simulated coarse masks."""

    @property
    def height_width(self) -> tuple[int, int]:
        """`size` as two integers."""
        height, width = self.size.split("x")
        return int(height), int(width)


class DataConfig(SourceConfig):
    """The shards that a run reads and how it reads them."""

    shards: Path = Path("data/streetscenes")
    """Folder of WebDataset tars with its manifest.json; with data.url, where they are kept."""
    url: str = ""
    """Where shards come from that are not in data.shards yet: http(s)://HOST/FOLDER, s3://BUCKET/
    FOLDER, or a command that prints the file {}, as "pipe:aws s3 cp s3://BUCKET/{} -"."""
    bad_shards: Literal["stop", "skip"] = "stop"
    """A shard whose bytes are not those of the manifest stops the run, or is left out: skip reads
    all shards once before training, so that every process leaves out the same ones."""
    shuffle_shards: NonNegativeInt = 0
    """Shards among which samples are shuffled at a time; 0 is all of them. A small number lets
    a run on shards that are still to be fetched start after the first few."""
    threads: PositiveInt = 2
    """Decoding threads per process."""
    prefetch_batches: PositiveInt = 4
    """Batches decoded ahead of the training step."""
    flip: bool = True
    """Mirror a training sample left to right with probability 1/2."""


class DegradeConfig(Section):
    """How the incomplete mask of task=super_resolution is made from the true one."""

    factor: Literal[2, 4, 8, 16] = 8
    """Downsampling factor per side."""
    sampling: Literal["corner", "center"] = "corner"
    """Pixel kept of each factor x factor block: its top left corner (the paper's) or its centre."""


class MaskGeneratorConfig(Section):
    """The trained network: SPADE-shaped, degraded mask in, class logits out."""

    width: PositiveInt = 16
    """Channels of the last block (ngf); the first ones have 16 times as many."""
    hidden: PositiveInt = 32
    """Channels of the shared convolution inside each SPADE (the official generator has 128)."""


class GeneratorConfig(Section):
    """The image generator: trained by task=synthesis, frozen in the other tasks."""

    path: Path | None = None
    """Weights of the frozen generator: the official latest_net_G.pth or generator.pth of a run."""
    edges: Edges = "argmax"
    """Edge channel while restoring: of the restored mask (argmax, or soft with a gradient), zeros,
    or the true instance edges, which leak the answer and give an upper bound only."""
    width: PositiveInt = 64
    """Channels of the last block (ngf) of a generator to be trained; the official one has 64."""
    hidden: PositiveInt = 128
    """Channels inside each SPADE of a generator to be trained; the official one has 128."""
    discriminator_width: PositiveInt = 64
    """Channels of the first layer of each discriminator (ndf)."""
    num_images: PositiveInt = 600_000
    """Images seen over the whole of task=synthesis (SPADE: 200 passes over Cityscapes)."""
    learning_rate: PositiveFloat = 1e-4
    """Adam learning rate of the generator in task=synthesis (SPADE: 1e-4)."""
    discriminator_learning_rate: PositiveFloat = 4e-4
    """Adam learning rate of the discriminator (SPADE: 4e-4)."""


class PerceptualConfig(Section):
    """The network whose features are compared in the perceptual loss (L_VGG in the paper)."""

    network: Literal["vgg19", "lite0"] = "vgg19"
    """vgg19: torchvision's ImageNet weights; lite0: the small EfficientNet-Lite0 that needs no
    download, for offline work. A table made with lite0 says so."""
    weights: Path | None = None
    """File of VGG19 weights (torchvision's vgg19-dcbb9e9d.pth); none: torchvision downloads it."""


class WeightsConfig(Section):
    """Factors of the loss terms; 0 switches a term off and costs nothing."""

    ce: NonNegativeFloat = 1.0
    """Cross entropy of the restored mask (L_mask)."""
    perceptual: NonNegativeFloat = 1.0
    """Perceptual distance of the synthesised image (L_VGG; 1 in the paper's sum, 10 in SPADE)."""
    l1: NonNegativeFloat = 1.0
    """Absolute difference of the synthesised image (L_1)."""
    synthesis_perceptual: NonNegativeFloat = 10.0
    """Perceptual distance in task=synthesis (SPADE: 10)."""
    feature_matching: NonNegativeFloat = 10.0
    """Distance of the discriminator's features in task=synthesis (SPADE: 10)."""


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
    """Val samples shown in the pictures of samples/ and in Figure 2."""


class RunConfig(Section):
    """One run: one cell of the table."""

    task: Task = "densify"
    """synthesis trains an image generator; densify restores sparse polygons; super_resolution
    restores a mask that was made `degrade.factor` times smaller."""
    loss: Loss = "ce_vgg_l1"
    """Terms of the restoration loss, as in the paper's columns; none trains nothing."""
    baseline: Baseline = "input"
    """What loss=none evaluates: the input as it is, fill (nearest annotated label; densify) or
    realign (undo the corner shift; super_resolution)."""
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
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    distributed: DistributedConfig = DistributedConfig()
    health: HealthConfig = HealthConfig()
    telemetry: TelemetryConfig = TelemetryConfig()

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = {"fill": "densify", "realign": "super_resolution"}.get(self.baseline, self.task)
        if self.baseline != "input" and self.loss != "none":
            raise ValueError(
                f"baseline={self.baseline} is evaluated without training, but loss={self.loss}: "
                "write loss=none, or leave baseline out"
            )
        if self.task != needed:
            raise ValueError(f"baseline={self.baseline} is for task={needed}, not task={self.task}")
        if self.task != "synthesis" and self.trains and not self.terms:
            raise ValueError(
                f"loss={self.loss} with weights of 0 trains nothing: write loss=none, or a weight"
            )
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
        if distributed.engine == "deepspeed" and self.trains_generator:
            raise ValueError(
                "task=synthesis trains two networks, but distributed.engine=deepspeed drives one: "
                "write distributed.engine=ddp"
            )
        return self

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
    def terms(self) -> dict[str, float]:
        """Weight of each active term of the restoration loss: ce, perceptual, l1."""
        names = {"ce": "ce", "vgg": "perceptual", "l1": "l1"}
        parts = [] if self.loss == "none" else [names[part] for part in self.loss.split("_")]
        weights = {name: float(getattr(self.weights, name)) for name in parts}
        return {name: weight for name, weight in weights.items() if weight > 0}


def load_config(arguments: Sequence[str]) -> RunConfig:
    """The RunConfig that the words of a command line describe."""
    return parse(RunConfig, arguments)
