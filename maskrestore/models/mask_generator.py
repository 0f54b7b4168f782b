"""The trained network: an incomplete mask in, class logits of the complete one out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.models.fused import FusedTrunk
from maskrestore.models.lite0 import STAGE_CHANNELS, folded_lite0
from maskrestore.models.spade import conv3x3

GAIN = 5.0
"""Of the start in the logits, before training: what calibrates a start that is right for nine
pixels in ten, log(0.9 / 0.1 * 33) = 5.7, is near."""
ENLARGED = 2
"""How much the image is enlarged for Lite0, per side: its first stage then has the mask's size. Of
CamVid's held-out training images this restored 3.5 points of mIoU more than the image as it is."""
GPU_LAYOUT = torch.channels_last
"""Of all between the input and the logits on a GPU: as tensor cores read it."""
NEVER = -10_000.0
"""The logit of a class that no mask is restored to: finite in half precision, and of probability 0
beside any other."""
CHANNELS = 16
"""Of each stage of the image's features, as the mask generator sees them."""


class MaskGenerator(FusedTrunk):
    """The SPADE form with class logits instead of colours.

    Its input is class probabilities to start at plus one channel that says which pixels are
    annotated, num_further channels of whatever else it may see, and the image with its features if
    sees_image. No spectral norm and instance instead of batch norm: nothing adversarial trains it,
    and a sample's result must not depend on its batch. size: (height, width) in pixels, multiples
    of 32.

    The last layer begins at zero and the start is added to the logits, so that training begins at
    the restoration that is given and learns what to change of it. restores_0: whether class 0, of
    what is not annotated, is one that masks are restored to (LabelSet.has_unlabeled_class).
    """

    def __init__(
        self,
        num_classes: int,
        width: int,
        hidden: int,
        size: tuple[int, int],
        checkpointing: bool = False,
        num_further: int = 0,
        sees_image: bool = False,
        image_features: str = "none",
        restores_0: bool = True,
    ) -> None:
        channels = num_classes + 1 + num_further + 3 * sees_image
        has_features = sees_image and image_features != "none"
        if has_features:
            channels += CHANNELS * len(STAGE_CHANNELS)
        super().__init__(channels, width, hidden, size, False, checkpointing)
        self.conv_logits = conv3x3(width, num_classes)
        for part in self.conv_logits.parameters():
            nn.init.zeros_(part)
        self.input_gain = nn.Parameter(torch.tensor([GAIN]))
        self.image_features = ImageFeatures() if has_features else None
        self.restores_0 = restores_0

    def forward(self, start: Tensor, valid: Tensor, *further: Tensor) -> Tensor:
        """float [B,num_classes,H,W], bool or float [B,1,H,W] -> logits [B,num_classes,H,W].

        H x W is `size`. further: float [B,?,H,W], num_further channels in all, and last the image
        [B,3,H,W] in [-1,1] if the network sees it.
        """
        parts = [part.to(start.dtype) for part in (start, valid, *further)]
        if self.image_features is not None:
            parts.append(self.image_features(further[-1]))
        seen = torch.cat(parts, dim=1)
        if seen.is_cuda:  # all that follows keeps this layout, whatever that of the weights
            seen = seen.contiguous(memory_format=GPU_LAYOUT)
        logits = self.conv_logits(self.features(seen))
        restored: Tensor = logits + self.input_gain * start
        if not self.restores_0:
            restored = F.pad(restored[:, 1:], (0, 0, 0, 0, 1, 0), value=NEVER)
        return restored


class ImageFeatures(nn.Module):
    """The five stages of the frozen EfficientNet-Lite0 at the size of the image, mixed to CHANNELS
    each. (Trained as well it restored half a point of mIoU more and took twice as long.)"""

    def __init__(self) -> None:
        super().__init__()
        self.lite0 = folded_lite0()
        self.mix = nn.ModuleList(nn.Conv2d(number, CHANNELS, 1) for number in STAGE_CHANNELS)

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] in [-1,1], H and W multiples of 32 -> [B,5*CHANNELS,H,W]."""
        # In float32 it is the network that ImageNet has taught.
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            pixels = F.interpolate(image.float(), scale_factor=ENLARGED, mode="bilinear")
            stages = self.lite0.stages((pixels + 1) * 127.5)
        size = image.shape[2:]
        mixed = [mix(stage) for mix, stage in zip(self.mix, stages, strict=True)]
        return torch.cat([F.interpolate(part, size, mode="bilinear") for part in mixed], 1)
