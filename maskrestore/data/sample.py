"""One street scene and its members in a WebDataset tar.

A sample `k` is four adjacent members: `k.image.png` (RGB), `k.fine.png`, `k.coarse.png` (8 bit
Cityscapes ids) and `k.instance.png` (16 bit, class * 1000 + n for countable classes). The PNGs are
made to be decoded quickly: no row is filtered, and the picture is stored, not compressed, which
takes about twice the bytes and a fifth of the time; maps shrink to a few kB all the same.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrestore.data.png import decode_member, encode_member

MEMBERS = ("image.png", "fine.png", "coarse.png", "instance.png")
"""The member extensions of a sample, in the order in which they stand in the tar."""


ENCODING = 2
"""Number of the bytes that `encode` gives; another one if they change for the same arrays."""


@dataclass(frozen=True)
class Sample:
    """A street scene, all maps of one size H x W.

    image: uint8 [H,W,3] RGB. fine, coarse: uint8 [H,W] ids 0..33 (in coarse, 0 = not annotated).
    instance: uint16 [H,W]. key: unique in its data set, without dots (WebDataset splits at them).
    """

    key: str
    image: NDArray[np.uint8]
    fine: NDArray[np.uint8]
    coarse: NDArray[np.uint8]
    instance: NDArray[np.uint16]

    def cut(self, size: tuple[int, int], seed: int) -> "Sample":
        """A piece of this (height, width), at most that of the sample, of all its maps: every place
        is as likely, and the same seed gives the same. It shares the sample's memory."""
        draw = np.random.default_rng(seed)
        window = tuple(
            slice(first := int(draw.integers(there - side, endpoint=True)), first + side)
            for there, side in zip(self.fine.shape, size, strict=True)
        )
        maps = {f.name: getattr(self, f.name)[window] for f in fields(self) if f.name != "key"}
        return replace(self, **maps)


def encode(sample: Sample) -> dict[str, bytes]:
    """{extension: PNG bytes} in the order of MEMBERS."""
    return {
        "image.png": encode_member(sample.image),
        "fine.png": encode_member(sample.fine),
        "coarse.png": encode_member(sample.coarse),
        "instance.png": encode_member(sample.instance),
    }


def decode(key: str, members: dict[str, bytes]) -> Sample:
    """The Sample that `encode` was given.

    Raises ValueError naming the member that is missing, broken or of another size than the image.
    """
    arrays: list[Any] = []
    for name in MEMBERS:
        if name not in members:
            raise ValueError(f"sample {key!r} has no member {key}.{name}")
        try:
            arrays.append(decode_member(members[name]))
        except OSError as error:
            raise ValueError(f"{key}.{name} is not a whole PNG: {error}") from error
    for name, array in zip(MEMBERS, arrays, strict=True):
        if array.shape[:2] != arrays[0].shape[:2]:
            raise ValueError(
                f"{key}.{name} is {array.shape[0]}x{array.shape[1]}, the image is "
                f"{arrays[0].shape[0]}x{arrays[0].shape[1]} (height x width)"
            )
    return Sample(key, *arrays)
