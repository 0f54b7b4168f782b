"""Features of the real val images, which are the same in every evaluation: the first one leaves
them in a file beside the shards. Half of an evaluation's work, where Inception is most of it."""

import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from torch import Tensor

from maskrestore.config import RunConfig
from maskrestore.distributed import Accelerator, gather_objects, on_main_process
from maskrestore.files import file_sha256
from maskrestore.manifest import read_manifest
from maskrestore.models.pretrained import load_weights, save_weights
from maskrestore.run_folder import left_out_shards
from maskrestore.settings import UserError

FOLDER = "features"
"""In data.shards."""
CODE = [Path(__file__).parent / name for name in ("metrics.py", "models/perceptual.py")]
"""What computes the features."""


class RealFeatures:
    """What an evaluation of the whole val split knows beforehand of its real images.

    known: their features, float32 [N,D] on the CPU, or None if they are to be computed. The main
    process alone reads and writes the file, so that all processes know the same. Raises UserError
    where the manifest of the shards cannot be read.
    """

    def __init__(self, accelerator: Accelerator, config: RunConfig) -> None:
        kind = accelerator.device.type
        self._path = on_main_process(accelerator, lambda: _path(config, kind))
        self.known = gather_objects(accelerator, _read(self._path))[0]

    def keep(self, features: Tensor) -> None:
        """Leave those of all real images for the next evaluation, if they were not known. Where
        the folder cannot be written, the next one computes them again."""
        if self.known is not None or self._path is None:
            return
        beside = self._path.with_name(f".{uuid4().hex}.partial")  # cells may do this together
        with suppress(OSError, UserError):
            self._path.parent.mkdir(exist_ok=True)
            save_weights({"real": features}, beside)
            os.replace(beside, self._path)


def _path(config: RunConfig, device: str) -> Path:
    """The file, named after everything that the features depend on."""
    left_out = left_out_shards(config.run) or ()
    shards = read_manifest(config.data.shards)["splits"]["val"]["shards"]
    name, weights = config.evaluation.features, config.evaluation.inception_weights
    facts = [
        [shard["sha256"] for shard in shards if shard["name"] not in left_out],
        file_sha256(weights) if weights is not None and weights.is_file() else None,
        [file_sha256(path) for path in CODE],
        [version(package) for package in ("torch", "torch-fidelity")],
        device,
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return config.data.shards / FOLDER / f"{name}-{digest[:16]}.pth"


def _read(path: Path | None) -> Tensor | None:
    """The features in the file; None if it is missing or damaged."""
    with suppress(UserError):
        return load_weights(path).get("real") if path is not None else None
    return None
