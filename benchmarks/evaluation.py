"""Evaluation against the usual way: PNGs, torch-fidelity's command line, the Cityscapes script.

python -m benchmarks.evaluation num_images=500 device=cuda

Both sides are given the same tensors, as an evaluation has them: true, restored and degraded masks,
real and synthesised images. Theirs writes the restored masks and synthesised images as PNGs (the
true ones lie there already, unmeasured) and runs the two programs on the folders. The figures of
both are compared, not only times. Inception has random weights, which cost the same.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from tqdm import tqdm

from benchmarks.labels import LABELS
from benchmarks.side_by_side import Comparison, conditions, in_turns, table
from maskrestore.config.cli import run_program
from maskrestore.config.labels import UNANNOTATED
from maskrestore.config.settings import Section, parse
from maskrestore.data.loader import Batch
from maskrestore.evaluation.baselines import fill
from maskrestore.evaluation.image_distances import ImageDistances
from maskrestore.evaluation.segmentation import SegmentationMetrics
from maskrestore.models.weights import load_weights, save_weights
from maskrestore.utils.errors import UserError
from shards.sources.streetscenes import draw

HEIGHT, WIDTH = 256, 512
OFFICIAL = """
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as script
script.args.evalInstLevelScore = False
script.main()
"""
"""The official script without its instance level figures, which nobody here computes."""


class EvaluationBenchmark(Section):
    """What to measure."""

    num_images: int = Field(64, ge=2)
    """Val images; Cityscapes has 500, which take half an hour on two cores."""
    pairs: PositiveInt = 3
    """Pairs of turns."""
    batch_size: PositiveInt = 16
    """Images per forward pass of ours (theirs: its default, 64)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where Inception and the counting of pixels run."""


class Case:
    """One evaluation, as ours and as theirs; `found` keeps the figures of each one's last turn."""

    def __init__(self, config: EvaluationBenchmark, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.device = torch.device(config.device)
        self.weights = folder / "inception.pth"
        torch.save(random_inception(self.weights).state_dict(), self.weights)
        with ProcessPoolExecutor() as pool:
            scenes = pool.map(
                partial(draw, 0, height=HEIGHT, width=WIDTH), range(config.num_images)
            )
            samples = list(tqdm(scenes, "drawing", config.num_images, unit="img", leave=False))
        whole = Batch.collate(samples, [False] * len(samples))
        self.keys = whole.keys
        annotated = (whole.coarse != UNANNOTATED)[:, None]
        small = F.interpolate(whole.image.float(), scale_factor=1 / 4, mode="area")
        blurred = F.interpolate(small, (HEIGHT, WIDTH), mode="bilinear").round().byte()
        every = [fill(whole.coarse, annotated), whole.fine, annotated, whole.image, blurred]
        self.restored, self.true, self.annotated, self.real, self.synthesized = (
            tensor.to(self.device) for tensor in every
        )
        for name in ("gtFine/val/street", "real", "results", "synthesized"):
            (folder / name).mkdir(parents=True)
        write_masks(self.true, folder / "gtFine/val/street", "_gtFine_labelIds")
        write_images(self.real, folder / "real")
        self.figures: dict[str, dict[str, Any]] = {}

    def first(self) -> float:
        """Seconds of the two metrics, Inception's weights read anew; leaves the real features."""
        return self._ours("first", None)

    def later(self) -> float:
        """The same with the real features that an evaluation has left (real_features.py)."""
        return self._ours("later", self.folder / "features.pth")

    def _ours(self, name: str, features: Path | None) -> float:
        began = time.perf_counter()
        known = None if features is None else load_weights(features)["real"]
        segmentation = SegmentationMetrics(LABELS)
        distances = ImageDistances("inception", self.weights, known).to(self.device)
        with torch.no_grad():
            for at in range(0, self.config.num_images, self.config.batch_size):
                part = slice(at, at + self.config.batch_size)
                segmentation.update(
                    self.keys[part], self.restored[part], self.true[part], self.annotated[part]
                )
                distances.update(self.real[part], self.synthesized[part])
        self.figures[name] = segmentation.compute() | distances.compute()
        if known is None:
            save_weights({"real": distances.all_real}, self.folder / "features.pth")
        return time.perf_counter() - began

    def theirs(self) -> float:
        """Seconds of writing PNGs and of the two programs, one after the other."""
        began = time.perf_counter()
        write_masks(self.restored, self.folder / "results", "_restored")
        write_images(self.synthesized, self.folder / "synthesized")
        places = {"DATASET": self.folder, "RESULTS": self.folder / "results"}
        places["EXPORT_DIR"] = self.folder
        environment = {f"CITYSCAPES_{name}": str(path) for name, path in places.items()}
        run([sys.executable, "-c", OFFICIAL], environment)
        command = ["-m", "torch_fidelity.fidelity", "--json", "--silent", "--fid", "--kid"]
        command += ["--input1", str(self.folder / "synthesized")]
        command += ["--input2", str(self.folder / "real")]
        # One subset of all images: the only one that has no chance in it.
        command += ["--kid-subsets", "1", "--kid-subset-size", str(self.config.num_images)]
        command += ["--feature-extractor-weights-path", str(self.weights)]
        command += ["--gpu", "0"] if self.config.device == "cuda" else ["--cpu"]
        distances = json.loads(run([sys.executable, *command]))
        seconds = time.perf_counter() - began
        official = json.loads((self.folder / "resultPixelLevelSemanticLabeling.json").read_text())
        confusion = np.array(official["confMatrix"])
        ignored = [name for name, iou in official["classScores"].items() if iou != iou]
        self.figures["theirs"] = {
            "accu": confusion.trace() / confusion.sum(),
            "miou19": official["averageScoreClasses"],
            "iou": {n: iou for n, iou in official["classScores"].items() if n not in ignored},
            "fid": distances["frechet_inception_distance"],
            "kid": distances["kernel_inception_distance_mean"],
        }
        return seconds

    def differences(self, name: str) -> dict[str, float]:
        """By how much `first` or `later` differs from theirs, relative to it; iou: the class that
        differs most."""
        ours, theirs = self.figures[name], self.figures["theirs"]

        def relative(value: float, other: float) -> float:
            return abs(value - other) / abs(other) if other else abs(value)

        keys = ("accu", "miou19", "fid", "kid")
        differences = {key: relative(ours[key], theirs[key]) for key in keys}
        classes = [relative(ours["iou"][key], iou) for key, iou in theirs["iou"].items()]
        return differences | {"iou": max(classes)}


def random_inception(path: Path) -> nn.Module:
    """FID's Inception with random weights whose features have the size of real ones."""
    torch.save({}, path)
    with patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        network: nn.Module = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("conv.weight"):
            nn.init.kaiming_normal_(value)
        elif name.endswith("running_mean"):
            nn.init.normal_(value, std=0.1)
        elif name.endswith("running_var"):
            nn.init.uniform_(value, 0.5, 1.5)
    return network


def write_masks(label_maps: Tensor, folder: Path, kind: str) -> None:
    """Grey PNGs of label ids, named as Cityscapes names them."""
    for number, label_map in enumerate(label_maps.byte().cpu().numpy()):
        Image.fromarray(label_map).save(folder / f"street_{number:06}_000000{kind}.png")


def write_images(images: Tensor, folder: Path) -> None:
    """PNGs of uint8 [N,3,H,W]."""
    for number, image in enumerate(images.permute(0, 2, 3, 1).cpu().numpy()):
        Image.fromarray(image).save(folder / f"{number:06}.png")


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """What the program prints; UserError with its last words if it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | (environment or {})
    )
    if done.returncode:
        raise UserError(f"{command[:3]} failed: {done.stderr[-2000:]}")
    return done.stdout


def main(words: Sequence[str]) -> None:
    """Measure, compare the figures, print the table."""
    config = parse(EvaluationBenchmark, words)
    goal = 2.0
    against = "PNGs, torch-fidelity's command line, the Cityscapes script"
    kinds = {
        "evaluation, the first on these val images": "first",
        "evaluation, every later one": "later",
    }
    if find_spec("cityscapesscripts") is None:
        remark = "`pip install cityscapesscripts`, then run it again"
        print(table(Comparison(what, against, goal, remark=remark) for what in kinds))
        print(f"\n{conditions(config.device)}")
        return
    rows, differences = [], []
    with tempfile.TemporaryDirectory(prefix="maskrestore-evaluation-") as folder:
        case = Case(config, Path(folder))
        for what, name in kinds.items():
            ours = getattr(case, name)
            rows.append(
                Comparison(what, against, goal, *in_turns(ours, case.theirs, config.pairs, what))
            )
            differences.append(case.differences(name))
    worst = {key: max(figures[key] for figures in differences) for key in differences[0]}
    packages = ("torch-fidelity", "torchmetrics", "cityscapesscripts", "numpy", "pillow")
    print(table(rows))
    print(
        f"\n{conditions(config.device, packages)}\n\n"
        f"{config.num_images} images of {HEIGHT}x{WIDTH} (drawn scenes; Cityscapes has 500). "
        "Figures of both sides differ at most by, relative to theirs: "
        + ", ".join(f"{key} {value:.1g}" for key, value in worst.items())
        + " (iou: of any class). Theirs starts two processes and computes the features of the real "
        "images anew, as the plain commands do; a part of its time does not depend on the number "
        "of images. Later evaluations of ours read those features from a file. Inception has "
        "random weights. KID is over all images at once on both sides; the official script "
        "computes no instance level figures."
    )


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", EvaluationBenchmark))
