"""SPADE as one writes it from the paper, for our fast paths to be compared with and held equal to.

Park et al. 2019, equation 1, figures 11 and 12. Nothing here is imported from maskrestore. The
names are those of the public checkpoints.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm


class PlainSPADE(nn.Module):
    """norm(x) * (1 + gamma(segmap)) + beta(segmap), norm without parameters."""

    def __init__(self, channels: int, semantic_nc: int, hidden: int, norm: str) -> None:
        super().__init__()
        if norm == "batch":
            self.param_free_norm: nn.Module = nn.BatchNorm2d(channels, affine=False)
        else:  # by instance; nn.InstanceNorm2d refuses maps of one pixel
            self.param_free_norm = nn.GroupNorm(channels, channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(semantic_nc, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        """x [B,channels,h,w], segmap [B,semantic_nc,H,W] -> [B,channels,h,w]."""
        normalized = self.param_free_norm(x)
        segmap = F.interpolate(segmap, size=x.shape[2:], mode="nearest")
        activations = self.mlp_shared(segmap)
        gamma = self.mlp_gamma(activations)
        beta = self.mlp_beta(activations)
        out: Tensor = normalized * (1 + gamma) + beta
        return out


class PlainBlock(nn.Module):
    """Figure 11."""

    def __init__(
        self, fin: int, fout: int, semantic_nc: int, hidden: int, norm: str, spectral: bool
    ) -> None:
        super().__init__()
        middle = min(fin, fout)
        wrap: Callable[[nn.Module], nn.Module] = spectral_norm if spectral else lambda layer: layer
        self.conv_0 = wrap(nn.Conv2d(fin, middle, 3, padding=1))
        self.conv_1 = wrap(nn.Conv2d(middle, fout, 3, padding=1))
        self.norm_0 = PlainSPADE(fin, semantic_nc, hidden, norm)
        self.norm_1 = PlainSPADE(middle, semantic_nc, hidden, norm)
        self.learned_shortcut = fin != fout
        if self.learned_shortcut:
            self.conv_s = wrap(nn.Conv2d(fin, fout, 1, bias=False))
            self.norm_s = PlainSPADE(fin, semantic_nc, hidden, norm)

    def forward(self, x: Tensor, segmap: Tensor) -> Tensor:
        """x [B,fin,h,w], segmap [B,semantic_nc,H,W] -> [B,fout,h,w]."""
        shortcut = self.conv_s(self.norm_s(x, segmap)) if self.learned_shortcut else x
        y = self.conv_0(F.leaky_relu(self.norm_0(x, segmap), 0.2))
        y = self.conv_1(F.leaky_relu(self.norm_1(y, segmap), 0.2))
        out: Tensor = shortcut + y
        return out


class PlainTrunk(nn.Module):
    """Figure 12 without its last layer; height and width multiples of 32."""

    def __init__(
        self,
        semantic_nc: int,
        width: int,
        hidden: int,
        size: tuple[int, int],
        norm: str,
        spectral: bool,
    ) -> None:
        super().__init__()
        more = size[0] % 64 == 0 and size[1] % 64 == 0
        self.doublings = 6 if more else 5
        self.latent_size = (size[0] >> self.doublings, size[1] >> self.doublings)

        def block(fin: int, fout: int) -> PlainBlock:
            return PlainBlock(fin * width, fout * width, semantic_nc, hidden, norm, spectral)

        self.fc = nn.Conv2d(semantic_nc, 16 * width, 3, padding=1)
        self.head_0, self.G_middle_0, self.G_middle_1 = block(16, 16), block(16, 16), block(16, 16)
        self.up_0, self.up_1, self.up_2, self.up_3 = (block(n, n // 2) for n in (16, 8, 4, 2))
        self.up = nn.Upsample(scale_factor=2)

    def features(self, segmap: Tensor) -> Tensor:
        """segmap [B,semantic_nc,*size] -> [B,width,*size]."""
        x = self.fc(F.interpolate(segmap, size=self.latent_size, mode="nearest"))
        x = self.head_0(x, segmap)
        x = self.G_middle_0(self.up(x), segmap)
        x = self.G_middle_1(self.up(x) if self.doublings == 6 else x, segmap)
        for block in (self.up_0, self.up_1, self.up_2, self.up_3):
            x = block(self.up(x), segmap)
        return F.leaky_relu(x, 0.2)


class PlainGenerator(PlainTrunk):
    """SPADEGenerator: batch norm and spectral norm."""

    def __init__(self, semantic_nc: int, width: int, hidden: int, size: tuple[int, int]) -> None:
        super().__init__(semantic_nc, width, hidden, size, "batch", spectral=True)
        self.conv_img = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, segmap: Tensor) -> Tensor:
        """segmap [B,semantic_nc,*size] -> image [B,3,*size] in [-1,1]."""
        return torch.tanh(self.conv_img(self.features(segmap)))


class PlainMaskGenerator(PlainTrunk):
    """MaskGenerator: instance norm, logits, and what training starts at added to them. num_seen:
    channels beside the start: whether a pixel is annotated, and the picture's if it is seen."""

    def __init__(
        self, num_classes: int, width: int, hidden: int, size: tuple[int, int], num_seen: int = 1
    ) -> None:
        super().__init__(num_classes + num_seen, width, hidden, size, "instance", spectral=False)
        self.conv_logits = nn.Conv2d(width, num_classes, 3, padding=1)
        self.input_gain = nn.Parameter(torch.tensor([5.0]))

    def forward(self, start: Tensor, *seen: Tensor) -> Tensor:
        """[B,num_classes,*size], num_seen channels [B,?,*size] -> logits
        [B,num_classes,*size]."""
        logits = self.conv_logits(self.features(torch.cat([start, *seen], 1)))
        out: Tensor = logits + self.input_gain * start
        return out
