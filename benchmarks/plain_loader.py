"""References of the loader and of writing: raw files as others read them, and peers on our samples.

The raw files are drawn: scenes of shards/streetscenes.py at Cityscapes' size, in its layout.
"""

import io
from collections.abc import Callable, Generator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import Cityscapes

from maskrestore.data.shard_folder import ShardFolder
from shards.sources.streetscenes import draw
from shards.workers import run_all

RAW_HEIGHT, RAW_WIDTH = 1024, 2048
HEIGHT, WIDTH = 256, 512
BATCH = 8
NAMES = ("image", "fine", "coarse", "instance")
Tensors = tuple[Tensor, Tensor, Tensor, Tensor]


def write_raw(root: Path, num_samples: int) -> float:
    """Split train in the layout of Cityscapes; returns megabytes per picture.

    Every second sample is the one before it, mirrored, since drawing takes seconds.
    """
    for folder in ("leftImg8bit", "gtFine", "gtCoarse"):
        (root / folder / "train" / "stadt").mkdir(parents=True)
    pieces = [(root, first, min(2, num_samples - first)) for first in range(0, num_samples, 2)]
    run_all(_write_scene, pieces, [number for _, _, number in pieces], 0, "drawing", "sample")
    sizes = [path.stat().st_size for path in root.glob("leftImg8bit/train/*/*.png")]
    return sum(sizes) / len(sizes) / 1e6


def _write_scene(piece: tuple[Path, int, int]) -> None:
    root, first, number = piece
    scene = draw(0, first, RAW_HEIGHT, RAW_WIDTH)
    for index, step in zip(range(first, first + number), (1, -1), strict=False):
        for folder, kind, array in (
            ("leftImg8bit", "leftImg8bit", scene.image),
            ("gtFine", "gtFine_labelIds", scene.fine),
            ("gtFine", "gtFine_instanceIds", scene.instance),
            ("gtCoarse", "gtCoarse_labelIds", scene.coarse),
        ):
            path = root / folder / "train" / "stadt" / f"stadt_000000_{index:06}_{kind}.png"
            Image.fromarray(np.ascontiguousarray(array[:, ::step])).save(path)


class RawCityscapes(Dataset[Tensors]):
    """torchvision's Cityscapes, resized: pictures bicubic, masks nearest.

    It gives fine masks or coarse ones; the coarse file beside each is opened as it would.
    """

    def __init__(self, root: Path) -> None:
        self._fine = Cityscapes(str(root), "train", "fine", ["semantic", "instance"])
        self._coarse = Cityscapes(str(root), "train", "coarse", "semantic").targets

    def __len__(self) -> int:
        return len(self._fine)

    def __getitem__(self, index: int) -> Tensors:
        image, (fine, instance) = self._fine[index]
        coarse = Image.open(self._coarse[index][0])
        size = WIDTH, HEIGHT
        maps = (x.resize(size, Image.Resampling.NEAREST) for x in (fine, coarse, instance))
        return to_tensors(image.resize(size, Image.Resampling.BICUBIC), *maps)


def to_tensors(image: Any, fine: Any, coarse: Any, instance: Any) -> Tensors:
    """PIL images or arrays of one sample -> uint8 [3,H,W] and three int64 [H,W]."""
    picture = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    a, b, c = (torch.from_numpy(np.array(x).astype(np.int64)) for x in (fine, coarse, instance))
    return picture, a, b, c


def batches_of(dataset: Any, shuffle: bool | None = None) -> Generator[Tensors]:
    """Batches without end, decoded in this process."""
    loader: DataLoader[Tensors] = DataLoader(dataset, BATCH, shuffle=shuffle)
    while True:
        yield from loader


def raw_cityscapes(root: Path) -> Generator[Tensors]:
    """The raw files, shuffled."""
    return batches_of(RawCityscapes(root), shuffle=True)


def plain_webdataset(folder: Path) -> Generator[Tensors]:
    """Our tars as its documentation reads tars: shards and samples shuffled, PIL as the decoder."""
    import webdataset  # the other readers need it not

    def decode(raw: dict[str, bytes]) -> Tensors:
        return to_tensors(*(Image.open(io.BytesIO(raw[f"{name}.png"])) for name in NAMES))

    urls = [str(path) for path in sorted(folder.glob("train-*.tar"))]
    dataset = webdataset.WebDataset(urls, shardshuffle=len(urls))
    return batches_of(dataset.shuffle(1000).map(decode))


def write_mds(folder: Path, out: Path, encodings: Sequence[str]) -> None:
    """The samples of a shard folder for mosaicml-streaming, NAMES encoded like that."""
    streaming = import_module("streaming")
    split = ShardFolder(folder, "train")
    with streaming.MDSWriter(
        out=str(out), columns=dict(zip(NAMES, encodings, strict=True))
    ) as writer:
        for index in range(len(split)):
            arrays = {name: getattr(split[index], name) for name in NAMES}
            if encodings[0] == "png":
                arrays = {name: Image.fromarray(array) for name, array in arrays.items()}
            writer.write(arrays)
    split.close()


def mosaicml_streaming(folder: Path) -> Callable[[], Generator[Tensors]]:
    """Opens what `write_mds` wrote, once; each call of the result begins to read it, shuffled."""
    streaming = import_module("streaming")

    class Samples(streaming.StreamingDataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, at: Any) -> Any:
            sample = super().__getitem__(at)
            return to_tensors(*(sample[name] for name in NAMES))

    dataset = Samples(local=str(folder), shuffle=True, batch_size=BATCH)
    return partial(batches_of, dataset)
