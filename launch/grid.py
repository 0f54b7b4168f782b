"""A grid file and the cells it stands for, each one a checked RunConfig."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from maskrestore.config import RunConfig
from maskrestore.settings import (
    CONFIGS,
    ConfigError,
    Section,
    find_config,
    merge,
    read_words,
    read_yaml,
    validate,
)

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


Settings = TypeVar("Settings", bound=GridSettings)


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    name: str
    config: RunConfig

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.run


@dataclass(frozen=True)
class Grid:
    """All cells in the order of the file; `folder` holds their run folders and the report."""

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

    path = _find_grid(settings.grid)
    own = set(schema.model_fields) - set(RunConfig.model_fields)
    shared = {key: value for key, value in values.items() if key not in own}
    name = "+".join(Path(config).stem for config in configs) + f"-{path.stem}"
    folder = settings.runs / name
    return settings, Grid(path.stem, folder, tuple(expand(path, shared, folder)))


def expand(path: Path, shared: dict[str, Any], folder: Path) -> list[Cell]:
    """Cells of the grid file at `path`: `shared` settings, below its base, below each row.

    Restoring cells use the image generator that the synthesis cell trains, unless they have a
    generator.path of their own. A synthesis cell that has one only evaluates it.
    Raises ConfigError with all mistakes of the file, or else all of its cells, each by its name.
    """
    values = read_yaml(path)
    try:
        grid = validate(GridConfig, values)
    except ConfigError as error:
        raise ConfigError(_within(path.name, error)) from error
    cells, mistakes = [], []
    rows: dict[str, dict[str, Any]] = {}
    for name, row in grid.rows.items():
        try:
            rows[name] = merge(shared, merge(grid.base, row)) | {"run": str(folder / name)}
        except ConfigError as error:
            mistakes.append(_within(f"{path.name}: cell {name}", error))
    sources = [
        name
        for name, row in rows.items()
        if row.get("task") == "synthesis" and not _generator_path(row)
    ]
    for name, values in rows.items():
        given = _generator_path(values)
        if values.get("task") == "synthesis":
            values["loss"] = "none" if given else RunConfig().loss
        elif sources and not given and isinstance(values.get("generator", {}), dict):
            trained = str(folder / sources[0] / "generator.pth")
            values = merge(values, {"generator": {"path": trained}})
        try:
            cells.append(Cell(name, validate(RunConfig, values)))
        except ConfigError as error:
            mistakes.append(_within(f"{path.name}: cell {name}", error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return cells


def _generator_path(values: dict[str, Any]) -> Any:
    """generator.path of unchecked settings; a section of a wrong form is left to the check."""
    generator = values.get("generator")
    return generator.get("path") if isinstance(generator, dict) else None


def _within(place: str, error: ConfigError) -> str:
    return "\n".join(f"{place}: {line}" for line in str(error).splitlines())


def _find_grid(name: str) -> Path:
    try:
        return find_config(name, CONFIGS / "grid")
    except ConfigError as error:
        raise ConfigError(str(error).replace("config=", "grid=", 1)) from error
