"""What tasks and rows are called, and the paper's numbers; figures: maskrestore/runs/figures.py."""

from collections.abc import Iterator

from maskrestore.config.run import RunConfig
from maskrestore.runs.result import SMALLER

PAPER = {
    ("synthesis", "none"): (None, None, 62.9),
    ("densify", "none"): (68.5, 39.4, 157.7),
    ("densify", "ce_vgg_l1"): (86.5, 52.2, 68.4),
    ("densify", "ce"): (86.1, 42.1, 70.7),
    ("densify", "ce_vgg"): (85.8, 37.9, 71.1),
    ("densify", "ce_l1"): (86.2, 44.3, 68.2),
    ("super_resolution", "none"): (84.2, 57.6, 78.1),
    ("super_resolution", "ce_vgg_l1"): (93.8, 65.2, 65.4),
    ("super_resolution", "ce"): (93.3, 69.5, 69.2),
    ("super_resolution", "ce_vgg"): (93.7, 65.1, 65.5),
    ("super_resolution", "ce_l1"): (93.7, 70.6, 66.4),
}
"""Table 1 of Ahn & Sull (2021), task and loss -> accu in %, mIoU in %, FID (Cityscapes val)."""

PAPER_FIGURES = {"accu": "accu", "miou": "mIoU", "fid": "FID"}
"""The paper's figures, key -> heading; over which ids its mIoU is, it does not say."""

QUOTED = (
    'Ahn & Sull, "Semantic Segmentation Restoration Using Pretrained Image Synthesis Model" '
    "(2021), Cityscapes val, 500 images, one seed; quoted, not ours."
)

TASKS = {
    "synthesis": "synthesis",
    "densify": "densification",
    "super_resolution": "super-resolution",
}

DAMAGE = {
    "drop": "polygons left out",
    "scribbles": "scribbles",
    "boundary": "boundary errors",
    "labels": "label errors",
    **{f"smaller_{factor}": f"{factor}x smaller" for factor in (4, 8, 16)},
    "mixture": "mixture",
}
"""degradation -> what a row of the table calls it; the task's own goes without saying."""

BASELINES = {
    "input": "input as it is",
    "fill": "nearest label",
    "random_walker": "random walker",
    "realign": "realigned",
    "bilinear": "bilinear",
}

TARGETS = {
    "given": "trained on incomplete masks",
    "nearest": "trained on nearest labels",
    "restored": "trained on restored masks",
}

CONDITIONS = {"mask_image": "image-conditioned", "image": "image alone"}

RELAXATIONS = {"straight_through": "straight-through", "gumbel": "Gumbel"}

EDGES = {"soft": "soft edges", "zeros": "no edges", "instance": "upper bound: true edges"}
"""As these; softmax and argmax are the defaults."""


def paper_figures(config: RunConfig) -> tuple[float | None, float | None, float | None]:
    """The paper's accu in %, mIoU in % and FID for the same experiment; None where it has none."""
    if config.data.labels.slug != "cityscapes":
        return None, None, None
    if config.task == "synthesis":  # no mask is restored: nothing of the below is in it
        return PAPER["synthesis", "none"]
    if not _is_of_paper(config):
        return None, None, None
    return PAPER.get((config.task, config.loss), (None, None, None))


def _is_of_paper(config: RunConfig) -> bool:
    default = RunConfig()
    same = ["protocol", "degradation", "baseline"]
    same += ["condition", "relaxation", "image_loss"] if config.trains else []
    same += ["degrade"] if config.task == "super_resolution" else []
    return (
        all(getattr(config, name) == getattr(default, name) for name in same)
        and config.generator.edges == default.generator.edges
        and config.terms == RunConfig(loss=config.loss).terms
        and not ("ce" in config.terms and config.weights.class_balance)
        and not (config.trains and (config.data.num_true_masks or config.data.crop))
    )


def task_name(config: RunConfig) -> str:
    """The task in the paper's words, and what is not the paper's: the damage, the protocol."""
    name = TASKS[config.task]
    if config.task == "super_resolution":
        name += f" {config.degrade.factor}x"
    if config.degradation in DAMAGE:
        name += f" ({DAMAGE[config.degradation]})"
    is_strict = config.protocol == "strict" and config.task != "synthesis"
    return f"{name}, strict" if is_strict else name


def loss_name(config: RunConfig, through: str = "") -> str:
    """The terms in the paper's spelling, and what else is not as in the paper. VGG is said only
    where it is VGG19. through: what tells its image generator from those of other rows."""
    through = through and f"through {through}"
    if config.task == "synthesis":
        return through or "-"
    perceptual = {"vgg19": "VGG", "lite0": "Lite0"}[config.perceptual.network]
    names = {"ce": "CE", "perceptual": perceptual, "l1": "L1", "lovasz": "Lovasz"}
    name = "+".join(
        names[term] if weight == 1 else f"{weight:g} {names[term]}"
        for term, weight in config.terms.items()
    )
    remarks = [*_variants(config), *filter(None, [through])]
    if not config.trains:
        name, remarks = "none", [BASELINES[config.baseline], *remarks]
    return f"{name} ({', '.join(remarks)})" if remarks else name


def _variants(config: RunConfig) -> Iterator[str]:
    sampled = config.task == "super_resolution" or config.degradation.startswith(SMALLER)
    if sampled and config.degrade.sampling == "center" and config.protocol == "paper":
        yield "centre-sampled"  # protocol=strict samples so everywhere
    if config.trains and config.condition in CONDITIONS:
        yield CONDITIONS[config.condition]
        if config.mask_generator.image_features == "none":
            yield "its colours alone"
    if config.trains and config.mask_generator.start == "input":
        yield "started from the input"
    if "ce" in config.terms and config.target in TARGETS:
        yield TARGETS[config.target]
    if config.trains and config.synthesized_images:
        yield f"{config.synthesized_images:.0%} synthesised images"
    if "ce" in config.terms and config.weights.class_balance:
        yield f"classes balanced, {config.weights.class_balance:g}"
    if config.trains and config.data.crop:
        yield f"crops of {config.data.crop}"
    if config.trains and config.data.num_true_masks:
        yield f"{config.data.num_true_masks} true masks"
    if {"perceptual", "l1"} & set(config.terms):
        yield from _image_variants(config)
    if config.generator.edges in EDGES:
        yield EDGES[config.generator.edges]


def _image_variants(config: RunConfig) -> Iterator[str]:
    image_loss = config.image_loss
    if config.relaxation in RELAXATIONS:
        yield RELAXATIONS[config.relaxation]
    if image_loss.start:
        yield f"image terms from {image_loss.start:.0%}"
    if image_loss.pixels == "unannotated":
        yield "image terms where nobody annotated"
    if image_loss.gradient:
        yield f"image gradient {image_loss.gradient:g} of CE's"


def input_of(config: RunConfig) -> tuple[str, ...]:
    """What decides the incomplete masks; rows are compared where they agree in it."""
    smaller = config.task == "super_resolution"
    sampled = smaller or config.degradation.startswith(SMALLER)
    sampling = config.degrade.sampling if sampled else ""
    factor = str(config.degrade.factor) if smaller else ""
    return config.task, config.degradation, sampling, factor


def sees_image(config: RunConfig) -> bool:
    """Whether a row restores with the real image at hand."""
    if config.trains:
        return config.condition != "mask"
    return config.baseline == "random_walker"
