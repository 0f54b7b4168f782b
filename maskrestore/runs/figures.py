"""Figures and pictures of an evaluation: what each is called, how it is written, what is better.

Without torch and below all who show one: the evaluation, evaluate.py, the local queue, the report,
the page of runs. docs/evaluation.md defines them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """A share (0..1) is written in %, a distance as it is. name: the heading of its column, for the
    19 classes that Cityscapes evaluates. short: what it is called where there is room for one word.
    caption: what the heading leaves open."""

    name: str
    short: str = ""
    caption: str = ""
    is_share: bool = True
    lower_is_better: bool = False

    @property
    def factor(self) -> int:
        """From a value to the number that is written."""
        return 100 if self.is_share else 1

    def heading(self, num_evaluated: int) -> str:
        """`name` with the number of classes that the label set evaluates."""
        return self.name.replace("(19)", f"({num_evaluated})")

    def text(self, value: float, spread: float | None = None) -> str:
        """A value and its standard deviation, if given, as a table has them: without a unit."""
        digits = 1 if self.is_share or abs(value) >= 10 else 4
        numbers = [value] if spread is None else [value, spread]
        return " ± ".join(f"{self.factor * number:.{digits}f}" for number in numbers)


def _distance(name: str) -> Figure:
    return Figure(name, short=name, is_share=False, lower_is_better=True)


FIGURES = {
    "accu": Figure("accu", short="accuracy"),
    "accu19": Figure(
        "accu (19)",
        caption="over the pixels whose true class is one of the evaluated ones",
    ),
    "accu_annotated": Figure("accu, annotated"),
    "accu_unannotated": Figure("accu, not annotated"),
    "miou19": Figure("mIoU (19)", short="mIoU"),
    "miou_all": Figure("mIoU (all ids)"),
    "boundary_f1": Figure("boundary F, 1 px"),
    "boundary_f3": Figure("boundary F, 3 px"),
    "boundary_f5": Figure("boundary F, 5 px"),
    "boundary_iou": Figure("boundary IoU"),
    "ece": Figure("calibration error", lower_is_better=True),
    "fid": _distance("FID"),
    "kid": _distance("KID"),
    "fd_lite0": _distance("fd_lite0"),
    "kd_lite0": _distance("kd_lite0"),
}
"""Key of the single numbers in result.json -> what there is to say of it."""

SHARES = tuple(key for key, figure in FIGURES.items() if figure.is_share)
"""Of the restored masks; each has an interval."""

DISTANCES = tuple(key for key, figure in FIGURES.items() if not figure.is_share)
"""Between the synthesised images and the real ones."""

HEADLINES = {"paper": ("accu", "miou19"), "strict": ("accu19", "miou19")}
"""Protocol -> the figures that count: in them a trained row has to beat the untrained ones."""

SAMPLE_FIGURES = ("accu", "miou19", "boundary_f3")
"""What is also told of each sample by itself."""

KIND_FIGURES = ("accu", "accu19", "miou19")
"""What is told of each kind of damage."""

IN_SHORT = ("accu", "miou19", "fid", "fd_lite0")
"""What is told of a run in a line."""

CAPTIONS = {
    "input": "input mask",
    "restored": "restored mask",
    "synthesized": "synthesised image",
    "true_mask": "true mask",
    "real": "real image",
}
"""Kinds of pictures, {key}_{kind}.png, in the order of a contact sheet, and what to call them."""

PHOTOS = ("synthesized", "real")
"""Kinds of pictures that are no masks."""
