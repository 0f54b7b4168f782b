"""Figure 2: what went in, what was restored, what the generator makes of it, and the truth."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from launch.grid.cells import Cell, Grid
from launch.results.names import TASKS
from launch.results.page_pictures import color_names
from maskrestore.config.labels import LabelSet
from maskrestore.runs.figures import PHOTOS

LOSSES = ("ce_vgg_l1", "ce_l1", "ce_vgg", "ce")
"""The trained row that stands for a task: the paper's full loss, or the first that there is."""

TILE_WIDTH, GAP, GROUP_GAP, MARGIN = 256, 6, 22, 24
INK, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "white"


@dataclass(frozen=True)
class Column:
    """One kind of picture of one cell; columns of one group stand together under its title."""

    group: str
    caption: str
    folder: Path
    kind: str

    def path(self, key: str) -> Path:
        """The picture of a sample; it may be missing."""
        return self.folder / f"{key}_{self.kind}.png"


def draw_figure(grid: Grid) -> bytes | None:
    """The PNG of a grid, a row per val sample; None while no cell has pictures."""
    columns = _columns(grid)
    keys = _samples(columns)
    if not keys:
        return None
    tile = _tile_size(columns, keys)
    title_font, font = ImageFont.load_default(size=19), ImageFont.load_default(size=15)
    lefts = _left_edges(columns)
    top = MARGIN + 58
    legend_top = top + len(keys) * (tile[1] + GAP) + 16
    width = lefts[-1] + tile[0] + MARGIN
    entries = legend(columns, keys, grid.cells[0].config.data.labels)
    places = _flow([name for name, _ in entries], font, width)
    height = legend_top + places[-1][1] + 24 + MARGIN
    figure = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(figure)

    for left, column, before in zip(lefts, columns, [None, *columns], strict=False):
        if before is None or before.group != column.group:
            draw.text((left, MARGIN), column.group, INK, title_font)
            last = max(i for i, other in enumerate(columns) if other.group == column.group)
            draw.line((left, MARGIN + 27, lefts[last] + tile[0], MARGIN + 27), FAINT, 1)
        draw.text((left, MARGIN + 33), column.caption, INK, font)
        for number, key in enumerate(keys):
            corner = left, top + number * (tile[1] + GAP)
            path = column.path(key)
            if path.is_file():
                figure.paste(_tile(path, tile, column.kind), corner)
            else:
                draw.rectangle((*corner, corner[0] + tile[0], corner[1] + tile[1]), "#eeeeee")
                draw.text((corner[0] + 8, corner[1] + 6), "missing", FAINT, font)
    for (name, color), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, legend_top + y, x + 16, legend_top + y + 16), color, FAINT)
        draw.text((x + 23, legend_top + y - 1), name, INK, font)

    buffer = io.BytesIO()
    figure.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _samples(columns: list[Column]) -> list[str]:
    """Keys of the samples that every column has, since each run also draws its own worst and best
    ones; of all, if they have none in common."""
    kinds = sorted({(column.folder, column.kind) for column in columns})
    drawn = [
        {path.name.removesuffix(f"_{kind}.png") for path in folder.glob(f"*_{kind}.png")}
        for folder, kind in kinds
    ]
    return sorted(set.intersection(*drawn) or set.union(*drawn)) if drawn else []


def _tile_size(columns: list[Column], keys: list[str]) -> tuple[int, int]:
    """Width and height of a picture in the figure, in pixels; they keep their shape."""
    paths = (column.path(key) for column in columns for key in keys)
    with Image.open(next(path for path in paths if path.is_file())) as first:
        return TILE_WIDTH, round(TILE_WIDTH * first.height / first.width)


def _columns(grid: Grid) -> list[Column]:
    columns: list[Column] = []
    for task in ("densify", "super_resolution"):
        cell = _standing_for(grid, task)
        if cell is not None:
            folder, loss, group = (
                cell.folder / "pictures",
                cell.config.loss,
                TASKS[task].capitalize(),
            )
            if task == "super_resolution":
                group += f" {cell.config.degrade.factor}x"
            columns += [
                Column(group, "input mask", folder, "input"),
                Column(group, f"restored mask ({loss})", folder, "restored"),
                Column(group, "generated image", folder, "synthesized"),
            ]
    synthesis = [cell.folder / "pictures" for cell in grid.cells if cell.config.task == "synthesis"]
    synthesis = [folder for folder in synthesis if folder.is_dir()]
    truth = [column.folder for column in columns] + synthesis
    if truth:
        columns.append(Column("Truth", "true mask", truth[0], "true_mask"))
        if synthesis:
            columns.append(Column("Truth", "generated image", synthesis[0], "synthesized"))
        columns.append(Column("Truth", "real image", truth[0], "real"))
    return columns


def _standing_for(grid: Grid, task: str) -> Cell | None:
    """The trained cell of a task that the figure shows."""
    cells = [cell for cell in grid.cells if cell.config.task == task]
    for loss in LOSSES:
        for cell in cells:
            if cell.config.loss == loss and (cell.folder / "pictures").is_dir():
                return cell
    return None


def _left_edges(columns: list[Column]) -> list[int]:
    edges, x = [], MARGIN
    for column, after in zip(columns, [*columns[1:], None], strict=True):
        edges.append(x)
        same = after is not None and after.group == column.group
        x += TILE_WIDTH + (GAP if same else GROUP_GAP)
    return edges


def _tile(path: Path, size: tuple[int, int], kind: str) -> Image.Image:
    is_photo = kind in PHOTOS
    with Image.open(path) as picture:
        return picture.convert("RGB").resize(
            size, Image.Resampling.BICUBIC if is_photo else Image.Resampling.NEAREST
        )


def legend(
    columns: list[Column], keys: list[str], labels: LabelSet
) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of each class in the masks, in the order of the label set."""
    present: set[object] = set()
    for column in columns:
        for path in (column.path(key) for key in keys):
            if column.kind not in PHOTOS and path.is_file():
                with Image.open(path) as picture:
                    colors = picture.convert("RGB").getcolors(
                        maxcolors=picture.width * picture.height
                    )
                present |= {color for _, color in colors or []}
    return [(name, color) for color, name in color_names(labels).items() if color in present]


def _flow(
    names: list[str], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[tuple[int, int]]:
    """Upper left corners of legend entries, in lines no longer than the figure."""
    places, x, y = [], MARGIN, 0
    for name in names:
        needed = 23 + round(font.getlength(name)) + 22
        if x + needed > width - MARGIN and x > MARGIN:
            x, y = MARGIN, y + 24
        places.append((x, y))
        x += needed
    return places or [(MARGIN, 0)]
