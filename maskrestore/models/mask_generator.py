"""The trained network: an incomplete mask in, class logits of the complete one out."""

import torch
from torch import Tensor, nn

from maskrestore.models.fused import FusedTrunk
from maskrestore.models.spade import conv3x3


class MaskGenerator(FusedTrunk):
    """The SPADE form with class logits instead of colours.

    Its input is the degraded mask plus one channel that says which pixels are annotated, and
    num_further channels of whatever else it may see. No spectral norm and instance instead of batch
    norm: nothing adversarial trains it, and a sample's result must not depend on its batch. size:
    (height, width) in pixels, multiples of 32.

    What the annotated pixels say is added to the logits, so that training starts at the unrestored
    mask and learns what to change. Both choices were the better ones in a short trial that was not
    kept (one seed, one data set).
    """

    def __init__(
        self,
        num_classes: int,
        width: int,
        hidden: int,
        size: tuple[int, int],
        checkpointing: bool = False,
        num_further: int = 0,
    ) -> None:
        channels = num_classes + 1 + num_further
        super().__init__(channels, width, hidden, size, False, checkpointing)
        self.conv_logits = conv3x3(width, num_classes)
        self.input_gain = nn.Parameter(torch.tensor([3.0]))

    def forward(self, degraded_segmap: Tensor, valid: Tensor, *further: Tensor) -> Tensor:
        """float [B,num_classes,H,W], bool or float [B,1,H,W] -> logits [B,num_classes,H,W].

        H x W is `size`. further: float [B,?,H,W], num_further channels in all.
        """
        valid, *further_parts = (part.to(degraded_segmap.dtype) for part in (valid, *further))
        seen = torch.cat([degraded_segmap, valid, *further_parts], dim=1)
        logits = self.conv_logits(self.features(seen))
        restored: Tensor = logits + self.input_gain * degraded_segmap * valid
        return restored
