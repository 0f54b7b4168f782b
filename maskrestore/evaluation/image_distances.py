"""Distances between sets of images: FID and KID, or the same on other features.

They gather over all processes in `compute`; processes may have seen different numbers of samples,
or none. docs/evaluation.md gives the reason for each choice.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from maskrestore.distributed.processes import gather_parts
from maskrestore.models.lite0 import Lite0Embedding
from maskrestore.models.weights import load_weights
from maskrestore.utils.errors import UserError

DISTANCE_NAMES = {"inception": ("fid", "kid"), "lite0": ("fd_lite0", "kd_lite0")}
"""Names of the Frechet and kernel distance by feature network. Only Inception's are FID and KID."""


class ImageDistances(nn.Module):
    """Frechet and kernel distance between the features of real and synthesised images.

    features: inception (FID and KID; weights is their file, none downloads it) or lite0 (fd_lite0
    and kd_lite0, with weights that need no download). known: the features of all real images,
    float32 [N,D], if they are known beforehand; `update` then does not look at real images. Raises
    UserError if the weights cannot be had or are not Inception's.
    """

    def __init__(
        self,
        features: Literal["inception", "lite0"],
        weights: Path | None = None,
        known: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.known = known
        self.all_real = torch.empty(0)
        """The features of all real images, float32 [N,D], once the distances are computed."""
        self.names = DISTANCE_NAMES[features]
        self.network = Lite0Embedding() if features == "lite0" else InceptionEmbedding(weights)
        # Convolutions and above all pooling are much faster so, and compute the same.
        self.network.to(memory_format=torch.channels_last)
        self.num_features = int(self.network.num_features)
        self._real: list[Tensor] = []
        self._synthesized: list[Tensor] = []

    def update(self, real: Tensor, synthesized: Tensor) -> None:
        """Add the features of a batch; both uint8 [B,3,H,W]."""
        if self.known is None:
            self._real.append(self.network(real).float())
        self._synthesized.append(self.network(synthesized).float())

    def compute(self) -> dict[str, Any]:
        """The two distances by name, None for fewer than 2 images, and num_samples."""
        synthesized = self._rows(self._synthesized)
        real = self._rows(self._real) if self.known is None else self.known.to(synthesized)
        self.all_real = real.float().cpu()
        values: tuple[float | None, ...] = (None, None)
        if len(synthesized) > 1:
            values = (
                float(frechet_distance(real, synthesized)),
                float(kernel_distance(real, synthesized)),
            )
        return {**dict(zip(self.names, values, strict=True)), "num_samples": len(synthesized)}

    def _rows(self, batches: list[Tensor]) -> Tensor:
        """Those of all processes, float64 [N,D] on the device of the network."""
        device = next(self.network.parameters()).device
        rows = gather_parts([batch.cpu() for batch in batches])
        return torch.cat([torch.empty(0, self.num_features), *rows]).to(device).double()


class InceptionEmbedding(nn.Module):
    """uint8 [B,3,H,W] -> float32 [B,2048]: pool features of the Inception network of FID.

    torch-fidelity's port, which also resizes to 299x299 as the original does.
    """

    num_features = 2048

    def __init__(self, weights: Path | None) -> None:
        # It takes as long to import as torch.
        from torch_fidelity.feature_extractor_inceptionv3 import (
            BasicConv2d,
            FeatureExtractorInceptionV3,
        )

        super().__init__()
        if weights is not None:
            # torch-fidelity unpickles whatever the file holds; load_weights lets tensors through
            # and nothing else, so only a harmless file gets that far.
            load_weights(weights)
        try:
            self.inception = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048"],
                feature_extractor_weights_path=None if weights is None else str(weights),
            )
        except OSError as error:
            raise UserError(
                f"the Inception weights of FID cannot be downloaded ({error}): give their file as "
                "evaluation.inception_weights=FILE (pt_inception-2015-12-05-6726825d.pth), or "
                "write evaluation.features=lite0, which needs no download"
            ) from error
        except RuntimeError as error:
            raise UserError(
                f"evaluation.inception_weights={weights}: not the weights of FID's Inception: "
                + " ".join(str(error).split())[:300]
            ) from error
        # The batch norms rest, so they are part of the weights of the convolutions before them.
        self.inception.eval()  # torch-fidelity 0.3 leaves that to others
        for module in self.inception.modules():
            if isinstance(module, BasicConv2d):
                module.conv = fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.inception(images)[0]
        return features


def frechet_distance(real: Tensor, synthesized: Tensor) -> Tensor:
    """|m_x - m_y|^2 + tr(S_x + S_y - 2 (S_x S_y)^(1/2)) of features [N,D] and [M,D], N, M > 1.

    Heusel et al. 2017, Equation 6, in the precision of the input (use float64). With S = R^T R the
    last trace is the sum of the singular values of R_x R_y^T. This is exact also for fewer samples
    than features, where the eigenvalues of S_x S_y are rounding noise, and takes no D x D matrix.
    """

    def mean_and_root(features: Tensor) -> tuple[Tensor, Tensor]:
        mean = features.mean(0)
        _, root = torch.linalg.qr(features - mean, mode="r")
        return mean, root / (len(features) - 1) ** 0.5

    mean_x, root_x = mean_and_root(real)
    mean_y, root_y = mean_and_root(synthesized)
    shared = torch.linalg.svdvals(root_x @ root_y.T).sum()
    spread = root_x.square().sum() + root_y.square().sum() - 2 * shared
    distance: Tensor = (mean_x - mean_y).square().sum() + spread
    return distance


def kernel_distance(real: Tensor, synthesized: Tensor) -> Tensor:
    """Squared MMD of features [N,D] and [M,D], N, M > 1, by the kernel (x.y / D + 1)^3.

    Binkowski et al. 2018, Equation 4: the unbiased estimate, of all images at once, which needs no
    random subsets.
    """

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:
        pairs = kernel(x, x)
        return (pairs.sum() - pairs.diagonal().sum()) / (len(x) * (len(x) - 1))

    return within(real) + within(synthesized) - 2 * kernel(real, synthesized).mean()
