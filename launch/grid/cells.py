"""A grid file and the cells it stands for, each one a checked RunConfig."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, PositiveInt

from maskrestore.config.data import split_at_commas
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import (
    CONFIGS,
    Section,
    find_config,
    merge,
    read_words,
    read_yaml,
    validate,
)
from maskrestore.utils.errors import ConfigError

CELL_KEYS = ("task", "loss", "baseline", "run")
"""What only the grid file may set: these make a cell what its name says."""


class GridConfig(Section):
    """A file of configs/grid: settings that all rows share, and those that make each row."""

    base: dict[str, Any] = Field(default_factory=dict)
    """Settings under every row."""
    rows: dict[str, dict[str, Any]] = Field(min_length=1)
    """Name of the cell -> its settings, sections nested as in any configuration file."""


class GridSettings(RunConfig):
    """The words of a grid program: its own, and every setting that the cells have in common."""

    grid: str = "table1"
    """Grid to work on: configs/grid/NAME.yaml, or a file that ends in .yaml."""
    runs: Path = Path("runs")
    """Folder of all grids; this one's is CONFIG-GRID in it, such as runs/demo-table1."""
    seeds: PositiveInt = 1
    """Seeds that each trained restoring cell is run with: seed, seed+1, ... The image generator's
    cell and the untrained baselines are run once."""
    generators: Annotated[tuple[Path, ...], BeforeValidator(split_at_commas)] = ()
    """Files of image generators, with commas between: every row is run with each of them."""


Settings = TypeVar("Settings", bound=GridSettings)


@dataclass(frozen=True)
class Cell:
    """One run of the grid; `row` is the row of the grid file that it belongs to.

    The first seed of a row has the row's name, the others have theirs behind it: ROW-seed1.
    """

    name: str
    row: str
    config: RunConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run


@dataclass(frozen=True)
class Grid:
    """All cells in the order of the file, the first seed of every row before any second one, so
    that a grid cut short is still a table; `folder` holds their run folders and the report."""

    name: str
    folder: Path
    cells: tuple[Cell, ...]

    @property
    def generator_cell(self) -> Cell | None:
        """The cell that trains the image generator of all others, unless the user gave one."""
        cells = (cell for cell in self.cells if cell.config.task == "synthesis")
        return next((cell for cell in cells if cell.config.trains), None)


def read_grid(schema: type[Settings], arguments: Sequence[str]) -> tuple[Settings, Grid]:
    """The program's settings and its grid, every cell checked; without config=, config=demo.

    Raises ConfigError with all mistakes: those of the words, or else those of the grid file's
    cells, each with the cell's name.
    """
    configs = [word.partition("=")[2] for word in arguments if word.startswith("config=")]
    if not configs:
        configs, arguments = ["demo"], ["config=demo", *arguments]
    values, mistakes = read_words(schema, arguments)
    mistakes += [
        f"{key}: set by the rows of the grid; for other rows write a grid file, grid=FILE.yaml"
        for key in CELL_KEYS
        if any(word.startswith(f"{key}=") for word in arguments)
    ]
    values = {key: value for key, value in values.items() if key not in CELL_KEYS}
    settings = validate(schema, values, mistakes)

    path = find_grid(settings.grid)
    own = set(schema.model_fields) - set(RunConfig.model_fields)
    shared = {key: value for key, value in values.items() if key not in own}
    # One folder for the runs of all grids, so that one Prometheus finds them.
    targets = {"telemetry": {"targets": str(settings.runs / "targets")}}
    shared = merge(targets, shared)
    name = "+".join(Path(config).stem for config in configs) + f"-{path.stem}"
    folder = settings.runs / name
    cells = expand(path, shared, folder, settings.seeds, settings.generators)
    return settings, Grid(path.stem, folder, tuple(cells))


def expand(
    path: Path,
    shared: dict[str, Any],
    folder: Path,
    seeds: int = 1,
    generators: Sequence[Path] = (),
) -> list[Cell]:
    """Cells of the grid file at `path`: `shared` settings, below its base, below each row.

    Restoring cells use the image generator that the synthesis cell trains, unless they have a
    generator.path of their own. A synthesis cell that has one only evaluates it. Rows that train a
    mask generator become a cell for each of `seeds` seeds, counted from the row's own; all of them
    use one and the same frozen image generator, which therefore stays a single cell, as do the
    baselines, which draw no random number. With `generators` each row stands for one with each.
    Raises ConfigError with all mistakes of the file, or else all of its cells, each by its name.
    """
    grid, mistakes = _read_grid_file(path), []
    rows: dict[str, dict[str, Any]] = {}
    for row, values in grid.rows.items():
        try:
            rows[row] = merge(shared, merge(grid.base, values))
        except ConfigError as error:
            mistakes.append(_within(f"cell {row}", error))
    if generators:
        rows = {
            f"{row}-{name}": merge(values, {"generator": {"path": str(file)}})
            for row, values in rows.items()
            for file, name in generator_names(generators).items()
        }
    columns = []
    for row, values in _with_generator(rows, folder).items():
        cells, mistakes_of_row = _cells_of_row(row, values, seeds, folder, taken=rows)
        columns.append(cells)
        mistakes += mistakes_of_row
    if mistakes:
        raise ConfigError(_within(path.name, ConfigError("\n".join(mistakes))))
    return [cell for same in zip_longest(*columns) for cell in same if cell is not None]


def generator_names(files: Collection[Path]) -> dict[Path, str]:
    """What tells image generators' files apart: their names, with their folders' where those are
    the same. Raises ConfigError if they are too."""
    names = {file: file.stem for file in files}
    if len(set(names.values())) < len(files):
        names = {file: f"{file.absolute().parent.name}-{file.stem}" for file in files}
    if len(set(names.values())) < len(files):
        raise ConfigError(
            f"generators={','.join(map(str, files))}: their names tell them not apart: give each a "
            "name or a folder's name of its own"
        )
    return {file: re.sub(r"[^\w.-]", "_", name) for file, name in names.items()}


def read_restoration(path: Path) -> dict[str, Any] | None:
    """The unchecked settings of a grid file that restores masks and trains nothing; None of one
    with rows."""
    values = read_yaml(path)
    if "rows" in values or "restore" not in values:
        return None
    settings, others = values["restore"], values.keys() - {"restore"}
    if others or not isinstance(settings, dict):
        raise ConfigError(f"{path.name}: `restore` must be a section, and the only one")
    return settings


def _read_grid_file(path: Path) -> GridConfig:
    values = read_yaml(path)
    if read_restoration(path) is not None:
        raise ConfigError(
            f"{path.name} restores masks: it has no rows to report. launch/submit.py runs it, "
            "launch/status.py tells how far it is, and summary.csv in its output folder what came "
            "of it"
        )
    try:
        return validate(GridConfig, values)
    except ConfigError as error:
        raise ConfigError(_within(path.name, error)) from error


def _cells_of_row(
    row: str, values: dict[str, Any], seeds: int, folder: Path, taken: Collection[str]
) -> tuple[list[Cell], list[str]]:
    """The cells of a row, one per seed if it trains a mask generator, and all their mistakes.

    taken: names that are not to be had for a further seed.
    """
    try:
        first = _checked_cell(row, row, values, folder)
    except ConfigError as error:
        return [], [str(error)]
    cells, mistakes = [first], []
    trains_masks = first.config.trains and not first.config.trains_generator
    for number in range(1, seeds if trains_masks else 1):
        seed = first.config.seed + number
        name = f"{row}-seed{seed}"
        if name in taken:
            mistakes.append(
                f"cell {name}: with seeds={seeds} this is also the name of seed {seed} of row "
                f"{row}; give the row another name"
            )
            continue
        try:
            cells.append(_checked_cell(name, row, values | {"seed": seed}, folder))
        except ConfigError as error:
            mistakes.append(str(error))
    return cells, mistakes


def _checked_cell(name: str, row: str, values: dict[str, Any], folder: Path) -> Cell:
    try:
        return Cell(name, row, validate(RunConfig, values | {"run": str(folder / name)}))
    except ConfigError as error:
        raise ConfigError(_within(f"cell {name}", error)) from error


def _with_generator(rows: dict[str, dict[str, Any]], folder: Path) -> dict[str, dict[str, Any]]:
    """The rows, those without an image generator given the one that the grid itself trains."""
    sources = [
        name
        for name, row in rows.items()
        if row.get("task") == "synthesis" and not _generator_path(row)
    ]
    complete = {}
    for name, row in rows.items():
        given = _generator_path(row)
        if row.get("task") == "synthesis":
            row = row | {"loss": "none" if given else RunConfig().loss}
        elif sources and not given and isinstance(row.get("generator", {}), dict):
            trained = str(folder / sources[0] / "generator.pth")
            row = merge(row, {"generator": {"path": trained}})
        complete[name] = row
    return complete


def _generator_path(values: dict[str, Any]) -> Any:
    """generator.path of unchecked settings; a section of a wrong form is left to the check."""
    generator = values.get("generator")
    return generator.get("path") if isinstance(generator, dict) else None


def _within(place: str, error: ConfigError) -> str:
    return "\n".join(f"{place}: {line}" for line in str(error).splitlines())


def find_grid(name: str) -> Path:
    """The file of `grid=name`; ConfigError lists those that there are."""
    try:
        return find_config(name, CONFIGS / "grid")
    except ConfigError as error:
        raise ConfigError(str(error).replace("config=", "grid=", 1)) from error
