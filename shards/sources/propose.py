"""What to write where a user does not know yet: a label file for masks, a size for pictures."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from tqdm import tqdm

from maskrestore.config.labels import MOST_CLASSES, LabelSet
from maskrestore.config.networks import MaskGeneratorConfig
from maskrestore.data.pictures import Mask, decode_mask, read_header
from maskrestore.utils.errors import UserError
from maskrestore.utils.file_names import PICTURES, plain, visible

VOID = 255
"""The value that most data sets have where nobody annotated."""
Color = tuple[int, int, int]
STEP = 32
"""Heights and widths are multiples of it."""
SHARES = (1, 2, 4, 8, 16)
"""By which sizes that are proposed are smaller than the pictures, per side."""


def propose(masks: Path) -> str:
    """YAML for all PNGs beneath a folder: a class for each value or, of RGB masks, each colour.

    UserError if there is no mask, one cannot be read, they are of both kinds, or hold too many.
    """
    paths = [path for path in _beneath(masks) if plain(path.name).endswith(".png")]
    if not paths:
        raise UserError(f"masks={masks}: there is no PNG")
    pixels: Counter[int | Color] = Counter()
    files: Counter[int | Color] = Counter()
    colors: dict[int | Color, Color] = {}
    problems = []
    for path in tqdm(paths, "looking", unit="mask"):
        try:
            found = dict(_content(decode_mask(path.read_bytes()), colors))
        except OSError as error:
            problems.append(f"  {path}: {error}")
            continue
        pixels.update(found)
        files.update(found.keys())
    if problems:
        raise UserError(f"masks={masks}: cannot be read:\n" + "\n".join(problems))
    if len({isinstance(value, tuple) for value in pixels}) > 1:
        raise UserError(f"masks={masks}: some are RGB, some hold values: give those of one kind")
    if len(pixels) > MOST_CLASSES:
        raise UserError(
            f"masks={masks}: {len(pixels)} values or colours, and {MOST_CLASSES} classes are the "
            "most: are these masks of classes, and saved without loss?"
        )
    return _yaml(pixels, files, colors, len(paths))


def _beneath(folder: Path) -> Iterator[Path]:
    try:
        for path in visible(folder):
            if path.is_dir():
                yield from _beneath(path)
            else:
                yield path
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}") from error


def _content(mask: Mask, colors: dict[int | Color, Color]) -> Iterator[tuple[int | Color, int]]:
    """Each value or colour, and its pixels; what a palette shows is added to `colors`."""
    if mask.pixels.ndim == 3:
        shown, counts = np.unique(mask.seen().reshape(-1, 3), axis=0, return_counts=True)
        for (red, green, blue), count in zip(shown.tolist(), counts.tolist(), strict=True):
            colors[red, green, blue] = red, green, blue
            yield (red, green, blue), count
        return
    counts = np.bincount(mask.seen().ravel())
    for value in mask.values.tolist():
        if mask.palette is not None and value < len(mask.palette):
            red, green, blue = mask.palette[value].tolist()
            colors.setdefault(value, (red, green, blue))
        yield value, int(counts[value])


def _yaml(
    pixels: Counter[int | Color],
    files: Counter[int | Color],
    colors: dict[int | Color, Color],
    num_files: int,
) -> str:
    total = sum(pixels.values())
    keys = sorted(pixels, key=lambda key: (isinstance(key, tuple), key))
    void = next((key for key in (VOID, (0, 0, 0)) if key in pixels), VOID)
    lines = [
        f"# Proposed from {num_files} masks: name the classes, and say what is not annotated.",
        "name: My labels",
        f"not_annotated: {VOID}",
    ]
    if isinstance(void, tuple):
        lines.append(f"not_annotated_color: {list(void)}")
    lines.append("classes:")
    used: set[Color] = set()
    number = 0
    for key in keys:
        if key == void:
            continue
        identity = number if isinstance(key, tuple) else key
        color = colors.get(key)
        if color is None or color in used:
            color = free_color(number + 1, used)
        used.add(color)
        lines.append(
            f"  - {{id: {identity}, name: class {identity}, color: {list(color)}}}"
            f"  # {pixels[key] / total:.2%} of the pixels, in {files[key]} masks"
        )
        number += 1
    return "\n".join(lines) + "\n"


def free_color(number: int, used: set[Color]) -> Color:
    """A colour of Pascal VOC's rule, whose bits are those of the number, that is free."""
    while True:
        red, green, blue = (
            sum((number >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
            for channel in range(3)
        )
        if (red, green, blue) not in used:
            return red, green, blue
        number += 1


def propose_size(images: Path, labels: LabelSet) -> str:
    """Sizes for the pictures beneath a folder, largest first, and the memory that training at each
    takes. UserError if there is no picture, or one cannot be read."""
    paths = [path for path in _beneath(images) if plain(path.name).endswith(PICTURES)]
    if not paths:
        raise UserError(f"images={images}: there is no picture, PNG or JPEG")
    sizes = [read_header(path).size for path in tqdm(paths, "looking", unit="picture")]
    width, height = (median(size[side] for size in sizes) for side in (0, 1))
    narrow, wide = (f(w / h for w, h in sizes) for f in (min, max))
    lines = [
        f"{len(sizes)} pictures, {height:.0f}x{width:.0f} (height x width) in the middle, width / "
        f"height from {narrow:.2f} to {wide:.2f}; all are resized to one size:"
    ]
    per_pixel = _bytes_per_pixel(labels)
    for share in SHARES:
        rows, columns = (max(STEP, round(side / share / STEP) * STEP) for side in (height, width))
        size = f"size={rows}x{columns}"
        memory = rows * columns * per_pixel / 1e9
        lines.append(f"  {size:<16} {memory:7.2f} GB for each image of a batch")
        if min(rows, columns) == STEP:
            break
    lines.append(
        "The memory is that of what is kept for the gradient, with the default widths, the picture "
        "seen beside the mask, and float32."
    )
    return "\n".join(lines)


def _bytes_per_pixel(labels: LabelSet) -> float:
    """What one pixel of a training step keeps, measured at a small size: it grows with the area."""
    import torch  # the rest does without

    from maskrestore.models.mask_generator import MaskGenerator

    shape, side = MaskGeneratorConfig(), 2 * STEP
    network = MaskGenerator(
        labels.num_classes, shape.width, shape.hidden, (side, side), False, 1, True, "lite0"
    )
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    seen = [torch.rand(1, channels, side, side) for channels in (labels.num_classes, 1, 1, 3)]
    parameters = {part.untyped_storage().data_ptr() for part in network.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = network(*seen)
    if not logits.requires_grad:
        raise RuntimeError("nothing was kept: this measured no training")
    return sum(size for at, size in kept.items() if at not in parameters) / side**2
