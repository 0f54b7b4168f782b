"""Runs, masks and pictures for the tests of restore.py, and what it makes of them."""

import csv
import subprocess
from pathlib import Path

import numpy as np
import torch
from forked import ROOT, run_program
from PIL import Image

from maskrestore.config.run import RunConfig, load_config
from maskrestore.config.settings import to_yaml
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.models.build import load_mask_generator, make_mask_generator
from maskrestore.models.weights import save_weights

SIZE = (32, 64)


def make_run(run: Path, *words: str, scale: float = 3.0) -> Path:
    """A run folder as training leaves it, with a random network that is sure of something."""
    run.mkdir(parents=True)
    config = load_config(
        [
            *("task=densify", "loss=ce", "data.size=32x64", f"run={run}"),
            *("mask_generator.width=8", "mask_generator.hidden=4", *words),
        ]
    )
    (run / "config.yaml").write_text(to_yaml(config))
    torch.manual_seed(0)
    shape = config.mask_generator
    network = make_mask_generator(config)
    with torch.no_grad():
        network.conv_logits.weight.normal_(0, scale / (9 * shape.width) ** 0.5)
    save_weights(network.state_dict(), run / "mask_generator.pth")
    return run


def config_of(run: Path) -> RunConfig:
    return load_config([f"config={run}/config.yaml"])


def draw_mask(path: Path, height: int = 32, width: int = 64, seed: int = 0) -> np.ndarray:
    """Blocks of classes 0 (not annotated) and 7..33."""
    draw = np.random.default_rng(seed)
    blocks = draw.choice([0, 0, *range(7, 34)], (-(-height // 8), -(-width // 8)))
    ids = blocks.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)
    return ids


def draw_image(path: Path, height: int = 32, width: int = 64) -> np.ndarray:
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def words_of(run: Path, source: Path, output: Path, *more: str) -> list[str]:
    return [f"checkpoint={run}", f"input={source}", f"output={output}", "device=cpu", *more]


def restore(run: Path, source: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_program([str(ROOT / "restore.py"), *words_of(run, source, output, *more)])


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "summary.csv", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def probabilities_of(run: Path, ids: np.ndarray, image: np.ndarray | None = None) -> torch.Tensor:
    """[C,H,W], by the network itself."""
    config = config_of(run).model_copy(update={"run": run})
    label_map = torch.from_numpy(ids.copy())[None].long()
    pixels = torch.empty(0) if image is None else torch.from_numpy(image.copy())
    if image is not None:
        pixels = pixels.permute(2, 0, 1)[None]
    degraded, valid = degrade(config, label_map, label_map)
    network = load_mask_generator(config).eval()
    with torch.no_grad():
        logits = network(*mask_generator_input(config, degraded, valid, pixels))
    return logits[0].softmax(0)
