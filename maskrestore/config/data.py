"""The settings of data sets and their shards. (The others: run.py.)"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt

from maskrestore.config.labels import Labels, load_labels
from maskrestore.config.settings import Section

SourceName = Literal["streetscenes", "cityscapes", "camvid", "folder"]


PLACES = {"root", "images", "masks", "coarse", "instances"}
"""Settings of where the raw data lie, which may be another place where shards are read."""


def _height_and_width(text: str) -> str:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise ValueError("write height x width in pixels, such as 256x512")
    if int(height) % 32 or int(width) % 32:
        raise ValueError("height and width must be multiples of 32: the generators double 5 times")
    return text


def height_and_width(size: str) -> tuple[int, int]:
    """A checked size as two integers."""
    height, width = size.split("x")
    return int(height), int(width)


def split_at_commas(value: Any) -> Any:
    """A text as the words between its commas; anything else as it is."""
    return tuple(map(str.strip, value.split(","))) if isinstance(value, str) else value


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names) or "" in names:
        raise ValueError("write each name once, with a comma between two")
    return names


Size = Annotated[str, AfterValidator(_height_and_width)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(split_at_commas),
    AfterValidator(_each_once),
    Field(min_length=1),
]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class SourceConfig(Section):
    """Where shards come from. `shards/write.py` needs these; a run only reads the result."""

    source: SourceName = "streetscenes"
    """What to shard: procedural street scenes, a data set in the layout of Cityscapes or CamVid, or
    a folder of pictures and one of masks, of any labels (docs/own_data.md)."""
    root: Path | None = None
    """Folder of the raw data set (cityscapes, camvid)."""
    images: Path | None = None
    """Folder of pictures, PNG or JPEG (source=folder). With a folder for each of splits in it, and
    in masks, coarse and instances, these are the splits; else val is drawn."""
    masks: Path | None = None
    """Folder of their true masks, PNGs of the same names: ids, colours or palettes of `labels`
    (source=folder)."""
    coarse: Path | None = None
    """Folder of their incomplete masks, likewise; none: polygons that are simulated
    (source=folder)."""
    instances: Path | None = None
    """Folder of PNGs of 8 or 16 bits with a number for each single thing; none: the connected parts
    of the classes that have instances (source=folder)."""
    encoding: Literal["auto", "ids", "train_ids", "colors"] = "auto"
    """What the values of the masks are, as of restore.py; auto looks at some (source=folder)."""
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the pictures that are drawn for val, by a hash of their names (source=folder)."""
    only_good: bool = False
    """Leave out what is unpaired or damaged, rather than refuse all (source=folder)."""
    labels: Labels = load_labels("cityscapes")
    """Classes of the masks: the name of a file in configs/labels/, or a file of one's own
    (docs/own_data.md). Sources other than folder have the classes of Cityscapes."""
    size: Size = "96x192"
    """Height x width in pixels to which everything is resized; multiples of 32."""
    splits: Names = ("train", "val")
    """Splits to shard, as train,val (cityscapes also has train_extra, which nobody annotated
    finely: its fine mask is its coarse one)."""
    num_train: PositiveInt = 512
    """Scenes drawn for train (streetscenes only)."""
    num_val: PositiveInt = 64
    """Scenes drawn for val (streetscenes only)."""
    source_seed: Seed = 0
    """Seed of the drawn scenes and of simulated coarse masks."""

    @property
    def height_width(self) -> tuple[int, int]:
        """`size` as two integers."""
        return height_and_width(self.size)


class DataConfig(SourceConfig):
    """The shards that a run reads and how it reads them."""

    shards: Path = Path("data/streetscenes")
    """Folder of WebDataset tars with its manifest.json; with data.url, where they are kept."""
    url: str = ""
    """Where shards come from that are not in data.shards yet: http(s)://HOST/FOLDER, s3://BUCKET/
    FOLDER, or a command that prints the file {}, as "pipe:aws s3 cp s3://BUCKET/{} -"."""
    bad_shards: Literal["stop", "skip"] = "stop"
    """A shard whose bytes are not those of the manifest stops the run, or is left out: skip reads
    all shards once before training, so that every process leaves out the same ones."""
    shuffle_shards: NonNegativeInt = 0
    """Shards among which samples are shuffled at a time; 0 is all of them. A small number lets
    a run on shards that are still to be fetched start after the first few."""
    threads: PositiveInt = 2
    """Decoding threads per process."""
    prefetch_batches: PositiveInt = 4
    """Batches decoded ahead of the training step."""
    crop: Size | None = None
    """Height x width of the piece of each training sample that is trained on, drawn anew each time
    it is seen; none: whole samples. Evaluation restores whole samples all the same, in overlapping
    tiles of this size (restore.py: fit=tile). Multiples of 32, no larger than data.size."""
    flip: bool = True
    """Mirror a training sample left to right with probability 1/2."""
    num_true_masks: NonNegativeInt = 0
    """Training images whose true masks the cross entropy compares with, evenly spaced among all; 0
    is all of them. Every other image of a run is then one of these, and the rest, of all images,
    serves the image terms alone."""

    @property
    def network_size(self) -> tuple[int, int]:
        """Height and width of what the mask generator sees: `crop`, or all of `size`."""
        return height_and_width(self.crop or self.size)

    def check_crop(self, trains_generator: bool, draws_images: bool) -> None:
        """ValueError, with all that is wrong, if the rest of a run does not fit to `crop`.

        trains_generator: the run trains an image generator. draws_images: it trains through one, or
        on what one draws.
        """
        if self.crop is None:
            return
        problems = []
        if any(a > b for a, b in zip(self.network_size, self.height_width, strict=True)):
            problems.append(f"is larger than data.size={self.size}: write a smaller one")
        if trains_generator:
            problems.append("is for masks, and task=synthesis trains on whole scenes: leave it out")
        elif draws_images:
            problems.append(
                "is for the cross entropy alone, since image generators draw whole scenes: write "
                "loss=ce and synthesized_images=0"
            )
        if problems:
            raise ValueError("\n".join(f"data.crop={self.crop} {text}" for text in problems))

    def check_classes(self) -> None:
        """ValueError if there is nothing for a mask generator to tell apart."""
        if len(self.labels.classes) == 1:
            raise ValueError(
                f"data.labels={self.labels} has one class alone, to which every mask would be "
                "restored: give what is around it as a class too"
            )
