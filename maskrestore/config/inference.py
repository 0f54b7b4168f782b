"""The settings of restore.py and export.py."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from maskrestore.config.execution import Precision
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import Section

Encoding = Literal["ids", "train_ids", "colors"]
Fit = Literal["resize", "tile"]
OVERLAP = 0.25
"""Of tiles, where nobody says otherwise: in evaluations too."""


def _number_of_how_many(text: str) -> str:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise ValueError("write NUMBER/PARTS, counted from 0, such as 0/4 to 3/4")
    return text


class RestoreConfig(Section):
    """What restore.py restores, with what, and where to."""

    checkpoint: Path
    """Folder of a finished run with task=densify or super_resolution, or its mask_generator.pth.
    Of a folder with two such runs, images= chooses the one that sees pictures."""
    input: Path
    """Masks to be restored: a PNG, or a folder with all PNGs beneath it."""
    output: Path
    """Folder for what is restored, in the folders of the input. The same command again continues
    in it."""
    images: Path | None = None
    """Folder of the masks' pictures, in the same folders and with the same names (PNG or JPEG):
    drawn under the overlays, and needed where the run has condition=mask_image."""
    encoding: Literal["auto", "ids", "train_ids", "colors"] = "auto"
    """What the values of a mask mean, of the run's label set: ids (Cityscapes: 0..33, 0 = not
    annotated), trainIds (0..18, 255 = not annotated), or colours (black = not annotated). auto
    looks at some of the masks. Masks are written in the encoding in which they came."""
    fit: Fit | None = None
    """How masks of another size than the model's get there: resize shrinks the whole scene and
    enlarges the probabilities; tile restores overlapping pieces at full size. none: as the model
    was trained, tile on pieces (data.crop), else resize."""
    overlap: Annotated[float, Field(ge=0, le=0.5)] = OVERLAP
    """Part of a tile 0..0.5 that it shares at least with the next (fit=tile)."""
    keep_annotated: bool | None = None
    """Leave annotated pixels as they are. none: yes, unless the run was trained to mend them
    (task=super_resolution; degradation=boundary, labels or mixture)."""
    regions: NonNegativeInt = 5
    """Least confident regions of each mask that summary.csv names."""
    augment: bool = False
    """Also synthesise an image from each restored mask, with the run's frozen image generator."""
    generator: Path | None = None
    """Weights of the image generator for augment=true; none: the run's own generator.path."""
    overwrite: bool = False
    """Replace files in the output folder that this command did not write."""
    part: Annotated[str, AfterValidator(_number_of_how_many)] = "0/1"
    """Restore one part of the masks, as NUMBER/PARTS from 0/PARTS on: for several jobs with the
    same output folder."""
    batch_size: PositiveInt = 4
    """Pieces of the model's size that go through it together, per process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU that belongs to this process where there is one."""
    precision: Precision | None = None
    """Number format of the networks' operations, as distributed.precision of train.py; none: as in
    the run."""
    cpu_threads: NonNegativeInt = 0
    """Threads of a process on a CPU; 0 leaves the choice to torch."""

    @property
    def share(self) -> slice:
        """The masks of `part`, of a list of all."""
        number, _, parts = self.part.partition("/")
        return slice(int(number), None, int(parts))

    def fits_by(self, run: RunConfig) -> Fit:
        """fit, or what it is for a mask generator of this run."""
        return self.fit or ("resize" if run.data.crop is None else "tile")

    def keeps_annotated(self, run: RunConfig) -> bool:
        """keep_annotated, or what it is for a mask generator of this run."""
        if self.keep_annotated is not None:
            return self.keep_annotated
        return run.task == "densify" and run.degradation in ("task", "drop", "scribbles")


class ExportConfig(Section):
    """What export.py writes, of which run."""

    run: Path
    """Folder of a finished run with task=densify or super_resolution."""
    output: Path
    """Folder for the exported files."""
    overwrite: bool = False
    """Replace files of these names in the output folder."""
