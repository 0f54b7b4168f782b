"""The settings of the losses: how much each term counts, and when and where the image terms do."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from maskrestore.config.settings import Section

Fraction = Annotated[float, Field(ge=0, le=1)]


class WeightsConfig(Section):
    """Factors of the loss terms; 0 switches a term off and costs nothing."""

    ce: NonNegativeFloat = 1.0
    """Cross entropy of the restored mask (L_mask)."""
    class_balance: NonNegativeFloat = 0.0
    """Rare classes count more in the cross entropy: by (share of the training pixels) to the power
    of minus this, at most 10 times the mean. 0 is the paper's; 0.25 measured best on CamVid."""
    lovasz: NonNegativeFloat = 0.0
    """Lovász-Softmax, a stand-in for the IoU of the restored mask, beside the terms of `loss`. 0 is
    the paper's; 0.5 measured best on CamVid's polygons, and gained nothing for smaller maps."""
    perceptual: NonNegativeFloat = 1.0
    """Perceptual distance of the synthesised image (L_VGG; 1 in the paper's sum, 10 in SPADE)."""
    l1: NonNegativeFloat = 1.0
    """Absolute difference of the synthesised image (L_1)."""
    synthesis_perceptual: NonNegativeFloat = 10.0
    """Perceptual distance in task=synthesis (SPADE: 10)."""
    feature_matching: NonNegativeFloat = 10.0
    """Distance of the discriminator's features in task=synthesis (SPADE: 10)."""


class ImageLossConfig(Section):
    """When, where and how much the image terms (perceptual, l1) of a restoration count; the
    paper's: always, everywhere, and as their weights make it."""

    start: Fraction = 0.0
    """Fraction 0..1 of the run from which they count; until then they are not computed."""
    pixels: Literal["all", "unannotated"] = "all"
    """What of the restored mask they change: all of it, or what the incomplete mask leaves open
    (task=densify)."""
    gradient: NonNegativeFloat = 0.0
    """Length of their gradient at each restored mask, as a multiple of the cross entropy's; 0
    leaves it as long as their weights make it."""
