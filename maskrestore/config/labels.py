"""Label sets: which classes a mask can hold, read from configs/labels/NAME.yaml or a user's file.

Everywhere behind the readers of files a mask holds class numbers, not the ids of its file: number 0
is what nobody annotated, and the classes follow in the order of the file. (Cityscapes has a class
of its own for that, unlabeled, whose id is 0 too: there numbers and ids are the same.)
"""

import hashlib
import json
import re
from functools import cache, cached_property
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from maskrestore.config.settings import CONFIGS, Section, find_config, read_yaml
from maskrestore.utils.errors import ConfigError

FOLDER = CONFIGS / "labels"
UNANNOTATED = 0
"""The number of what nobody annotated."""
UNKNOWN = 255
"""No number, in tables of them."""
MOST_CLASSES = 250
"""Numbers have 8 bits, and a few of them mean no class."""

Id = Annotated[int, Field(ge=0, le=65535)]
Byte = Annotated[int, Field(ge=0, le=255)]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


Color = tuple[Byte, Byte, Byte]
Ids = Annotated[tuple[Id, ...], BeforeValidator(_listed)]


class LabelClass(Section):
    """One class of a label set."""

    id: Id
    """Its value in masks."""
    name: str
    color: Color
    """RGB."""
    evaluated: bool = True
    """Whether it counts in the means over classes."""
    instances: bool = False
    """Whether its things can be counted one by one."""
    also: Ids = ()
    """Further values of masks that are read as this class."""


class LabelSet(BaseModel):
    """The classes of masks. Numbers: 0 is not annotated, then the classes in their order."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1)
    """What it is called in messages."""
    page: str = ""
    """Where the list of classes is published."""
    not_annotated: Ids = ()
    """Values of masks that mean: nobody annotated this, or it is no class. The first one is what is
    written. The id of the first class: then true masks count it as a class, as Cityscapes does."""
    not_annotated_color: Color | None = None
    """RGB of it in pictures; none: black, or white where a class is black."""
    classes: tuple[LabelClass, ...] = Field(min_length=1)
    groups: tuple[tuple[str, ...], ...] = ()
    """Names of classes that are taken for one another (degradation=labels)."""

    @model_validator(mode="after")
    def _check(self) -> "LabelSet":
        problems = []
        values = [value for entry in self.classes for value in (entry.id, *entry.also)]
        if not self.has_unlabeled_class:
            values += self.not_annotated
        for what, of in (
            ("the value", [str(value) for value in values]),
            ("the name", [entry.name for entry in self.classes]),
        ):
            doubles = sorted({one for one in of if of.count(one) > 1})
            problems += [f"{what} {double} stands for two things" for double in doubles]
        seen: dict[tuple[int, int, int], str] = {}
        for entry in self.classes:
            other = seen.setdefault(entry.color, entry.name)
            if entry.evaluated and other != entry.name:
                problems.append(f"{other} and {entry.name} have one colour, {list(entry.color)}")
        grouped = [name for group in self.groups for name in group]
        known = {entry.name for entry in self.classes}
        problems += [f"groups: there is no class {name}" for name in grouped if name not in known]
        if not any(entry.evaluated for entry in self.classes):
            problems.append("no class is evaluated")
        if len(self.classes) > MOST_CLASSES:
            problems.append(f"{len(self.classes)} classes, and {MOST_CLASSES} are the most")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def has_unlabeled_class(self) -> bool:
        """Whether what is not annotated is the first class, which true masks are judged by too."""
        return self.classes[0].id in self.not_annotated

    @property
    def slug(self) -> str:
        """Its file in configs/labels/, if it is one of those, without its suffix."""
        return re.sub(r"\W+", "_", self.name.lower())

    @cached_property
    def by_number(self) -> tuple[LabelClass, ...]:
        """Each number's class; what stands for what is not annotated where no class does."""
        if self.has_unlabeled_class:
            return self.classes
        black = (0, 0, 0)
        free = all(entry.color != black for entry in self.classes)
        used = {value for entry in self.classes for value in (entry.id, *entry.also)}
        written = next(v for v in (*self.not_annotated, *range(255, 65536)) if v not in used)
        nobody = LabelClass.model_construct(
            id=written,
            name="not annotated",
            color=self.not_annotated_color or (black if free else (255, 255, 255)),
            evaluated=False,
            instances=False,
            also=self.not_annotated[1:],
        )
        return (nobody, *self.classes)

    @property
    def num_classes(self) -> int:
        """Numbers that a mask can hold, 0 included: the channels of its one-hot map."""
        return len(self.by_number)

    @cached_property
    def number(self) -> dict[str, int]:
        """A class's name -> its number."""
        return {entry.name: number for number, entry in enumerate(self.by_number)}

    @cached_property
    def evaluated(self) -> tuple[int, ...]:
        """Numbers of the classes that figures average over; their order is that of trainIds."""
        return tuple(n for n, entry in enumerate(self.by_number) if entry.evaluated)

    @cached_property
    def countable(self) -> tuple[int, ...]:
        """Numbers of the classes that have instances."""
        return tuple(n for n, entry in enumerate(self.by_number) if entry.instances)

    @cached_property
    def confused(self) -> tuple[tuple[int, ...], ...]:
        """`groups` by their numbers; without any, every class is taken for every other."""
        everything = tuple(range(1, self.num_classes))
        groups = (tuple(self.number[name] for name in group) for group in self.groups)
        return tuple(groups) or (everything,)

    @cached_property
    def numbers(self) -> dict[int, int]:
        """A mask's value -> its number."""
        numbers = {
            value: number
            for number, entry in enumerate(self.by_number)
            for value in (entry.id, *entry.also)
        }
        return numbers | dict.fromkeys(self.not_annotated, UNANNOTATED)

    @property
    def bits(self) -> int:
        """Of a mask that holds its ids: 8 or 16."""
        return 8 if max(self.numbers) < 256 else 16

    @property
    def values(self) -> str:
        """The values of its masks, in words."""
        runs: list[list[int]] = []
        for value in sorted(self.numbers):
            if runs and value == runs[-1][1] + 1:
                runs[-1][1] = value
            else:
                runs.append([value, value])
        *firsts, last = [f"{a}..{b}" if a < b else str(a) for a, b in runs]
        return f"{', '.join(firsts)} or {last}" if firsts else last

    def __str__(self) -> str:
        return self.slug

    @property
    def sha256(self) -> str:
        """Of everything that a mask means by it: its pages and groups may change."""
        content = self.model_dump(mode="json", exclude={"page", "groups"})
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def load_labels(name: str) -> LabelSet:
    """The label set of configs/labels/NAME.yaml, or of the file NAME if it ends in .yaml.

    Raises ConfigError, with every mistake in it.
    """
    try:
        path = find_config(name, FOLDER)
    except ConfigError as error:
        raise ConfigError(str(error).removeprefix("config=")) from error
    try:
        return read_labels(read_yaml(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no label set:\n{error}") from error


def read_labels(values: Any) -> LabelSet:
    """The label set of a name or of what `dumped` gave. ValueError lists what is wrong with it."""
    if isinstance(values, str):
        return load_labels(values)
    try:
        return LabelSet.model_validate(values)
    except ValidationError as error:
        lines = []
        for detail in error.errors():
            place = ".".join(map(str, detail["loc"]))
            lines.append(
                f"  {place}{': ' if place else ''}{detail['msg']}".replace("Value error, ", "")
            )
        raise ValueError("\n".join(lines)) from error


def _loaded(value: Any) -> Any:
    try:
        return read_labels(value)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def dumped(labels: LabelSet) -> str | dict[str, Any]:
    """Its name if it is one that is shipped, else all of it: a run folder is whole by itself."""
    if (FOLDER / f"{labels.slug}.yaml").is_file() and load_labels(labels.slug) == labels:
        return labels.slug
    return labels.model_dump(mode="json", exclude_defaults=True)


def save_labels(labels: LabelSet) -> str:
    """The YAML of a label file, a class on each line."""
    content = labels.model_dump(mode="json", exclude_defaults=True)
    classes = content.pop("classes")
    # A JSON object on a line is YAML too.
    lines = [f"  - {json.dumps(entry, ensure_ascii=False)}" for entry in classes]
    head = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in content.items()]
    return "\n".join([*head, "classes:", *lines]) + "\n"


Labels = Annotated[LabelSet, BeforeValidator(_loaded), PlainSerializer(dumped)]
"""A setting that is written as NAME or FILE."""
