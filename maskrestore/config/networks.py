"""The settings of networks: the trained mask generator, the image generator, the perceptual one."""

from pathlib import Path
from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from maskrestore.config.data import Size, height_and_width
from maskrestore.config.settings import Section

Edges = Literal["argmax", "soft", "zeros", "instance"]


class MaskGeneratorConfig(Section):
    """The trained network: SPADE-shaped, degraded mask in, class logits out."""

    width: PositiveInt = 16
    """Channels of the last block (ngf); the first ones have 16 times as many."""
    hidden: PositiveInt = 32
    """Channels of the shared convolution inside each SPADE (the official generator has 128)."""
    start: Literal["prior", "input"] = "prior"
    """What training starts at. prior: the best untrained restoration (nearest label; interpolated
    classes of a smaller map), which the network sees and learns to change; input: the incomplete
    mask."""
    image_features: Literal["lite0", "none"] = "lite0"
    """What the network is told of the image beside its colours, where it sees it (condition): the
    five stages of EfficientNet-Lite0 as ImageNet has taught it, frozen."""


class GeneratorConfig(Section):
    """The image generator: trained by task=synthesis, frozen in the other tasks."""

    path: Path | None = None
    """Weights of the frozen generator: an official file of SPADE, pix2pixHD, CC-FPSE or OASIS
    (told by its content), or generator.pth of a run."""
    size: Size | None = None
    """Height x width at which the frozen generator draws, where it cannot draw at data.size, or not
    well: masks are enlarged to that by the nearest pixel, images averaged down. none: data.size."""
    style: str = "zero"
    """What it draws beside the mask (CC-FPSE, OASIS): zero, the mean of what it was trained with;
    seed, drawn for each sample; or the FILE of CC-FPSE's encoder, which takes it of the real image,
    as the authors' test does."""
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

    def size_for(self, data_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which it draws for masks of this size."""
        return height_and_width(self.size) if self.size else data_size

    @property
    def style_encoder(self) -> Path | None:
        """The file that the style is taken with, if any."""
        return None if self.style in ("zero", "seed") else Path(self.style)


class PerceptualConfig(Section):
    """The network whose features are compared in the perceptual loss (L_VGG in the paper)."""

    network: Literal["vgg19", "lite0"] = "vgg19"
    """vgg19: torchvision's ImageNet weights; lite0: the small EfficientNet-Lite0 that needs no
    download, for offline work. A table made with lite0 says so."""
    weights: Path | None = None
    """File of VGG19 weights (torchvision's vgg19-dcbb9e9d.pth); none: torchvision downloads it."""
