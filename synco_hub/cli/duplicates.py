"""`synco-hub data duplicates`: pictures that are there twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.options import DuplicatesOptions
from synco_hub.data.duplicates import DuplicateGroup, Duplicates, find_duplicates
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.embedding import open_splits, write_embeddings
from synco_hub.embedding_tables import Embeddings
from synco_hub.output_paths import check_output_file
from synco_hub.settings import DatasetChoice, EmbeddingSettings
from synco_hub.visualization import save_figure

# Cells of a sheet, of which a group takes one for each file that is drawn, and the most sheets.
CELLS_A_ROW, ROWS_A_SHEET, SHEETS, FILES_DRAWN = 10, 12, 10, 6
_CELL, _HEADING = (1.3, 1.45), 0.4  # inches


def find(options: DuplicatesOptions, choice: DatasetChoice) -> None:
    """Print what is there twice; write it as JSON and draw it where that is asked for."""
    if options.output is not None:
        check_output_file(options.output, "--output", (".json",))
    if options.figure is not None:
        check_output_file(options.figure, "--figure", (".png", ".pdf"))
    choices = [replace(choice, dataset=options.source)]
    if options.other:
        # Where the files of the first are says nothing of the second.
        choices.append(
            replace(choice, dataset=options.other, data_dir=None, dataset_id=None, config=None, revision=None)
        )
    sides = [list(open_splits(each, "all", None)) for each in choices]
    opened = [[images for images, _ in side] for side in sides]
    vectors = None if options.model is None else _embed(options, choices, sides)
    found = find_duplicates(
        opened[0],
        opened[1] if options.other else (),
        flips=options.flips,
        vectors=vectors,
        num_workers=options.num_workers,
        max_bad_fraction=options.max_bad_fraction,
        seed=options.seed,
    )
    print(format_duplicates(found))
    if options.output is not None:
        with atomic_write(options.output) as unfinished:
            unfinished.write_text(json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"wrote {options.output}")
    if options.figure is not None:
        places = [(images, k) for side in opened for images in side for k in range(len(images))]
        sheets = draw_duplicates(found, lambda member: places[member][0].load_image(places[member][1]))
        for number, sheet in enumerate(sheets, start=1):
            name = options.figure.stem if number == 1 else f"{options.figure.stem}-{number}"
            print(f"wrote {save_figure(sheet, options.figure.with_stem(name), dpi=120)}")


def _embed(
    options: DuplicatesOptions,
    choices: Sequence[DatasetChoice],
    sides: Sequence[Sequence[tuple[ImageDataset, tuple[str, ...]]]],
) -> npt.NDArray[np.float32]:
    """Features of all images in their order; NaN for those that cannot be read."""
    settings = EmbeddingSettings(num_workers=options.num_workers, max_bad_fraction=options.max_bad_fraction)
    rows = []
    for choice, side in zip(choices, sides, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            file = write_embeddings(
                str(options.model), choice, settings, Path(folder) / "features.parquet", options.model_revision
            )
            table = Embeddings.read(file)
        known = dict(zip(zip(table.splits, table.file_names, strict=True), table.vectors, strict=True))
        missing = np.full(table.vectors.shape[1], np.nan, dtype=np.float32)
        rows += [
            known.get((split, images.name(k)), missing) for images, splits in side for k, split in enumerate(splits)
        ]
    return np.stack(rows)


def draw_duplicates(found: Duplicates, load: Callable[[int], Any]) -> Iterator[Figure]:
    """Sheets of groups side by side, each framed, with what `load` gives for its members."""
    sheets = lay_out(found.groups)
    shown = sum(map(len, sheets))
    first = 1
    for number, sheet in enumerate(sheets, start=1):
        rows = max((row for _, row, _ in sheet), default=0) + 1
        width, height = _CELL[0] * CELLS_A_ROW, _HEADING + _CELL[1] * rows
        figure = Figure(figsize=(width, height))
        which = f"{first} to {first + len(sheet) - 1} of {len(found.groups)}" if sheet else "none"
        rest = f", sheet {number} of {len(sheets)}" if len(sheets) > 1 else ""
        rest += f"; the last {len(found.groups) - shown} are not drawn" if shown < len(found.groups) else ""
        figure.text(0.5, 1 - 0.5 * _HEADING / height, f"groups of duplicates: {which}{rest}", fontsize=9, ha="center")
        for group, row, column in sheet:
            corner = _CELL[0] * column / width, 1 - (_HEADING + _CELL[1] * (row + 1)) / height
            _draw_group(figure, group, found.names, load, corner)
        first += len(sheet)
        yield figure


def lay_out(groups: Sequence[DuplicateGroup]) -> list[list[tuple[DuplicateGroup, int, int]]]:
    """For each sheet its groups with the row and the column of their first cell; at least one sheet."""
    sheets: list[list[tuple[DuplicateGroup, int, int]]] = [[]]
    row = column = 0
    for group in groups:
        cells = min(len(group.members), FILES_DRAWN)
        if column + cells > CELLS_A_ROW:
            row, column = row + 1, 0
        if row == ROWS_A_SHEET:
            if len(sheets) == SHEETS:
                break
            sheets.append([])
            row = 0
        sheets[-1].append((group, row, column))
        column += cells
    return sheets


def _draw_group(
    figure: Figure,
    group: DuplicateGroup,
    names: Sequence[str],
    load: Callable[[int], Any],
    corner: tuple[float, float],
) -> None:
    """A frame with the pictures of one group, their names above them and what they have in common below."""
    width, height = _CELL[0] / figure.get_figwidth(), _CELL[1] / figure.get_figheight()
    shown = group.members[:FILES_DRAWN]
    (left, bottom), gap = corner, 0.03 * width
    frame = (left + gap, bottom + gap), width * len(shown) - 2 * gap, height - 2 * gap
    figure.add_artist(Rectangle(*frame, fill=False, edgecolor="0.7", linewidth=0.6))
    rest = f", {len(group.members) - len(shown)} more" if len(group.members) > len(shown) else ""
    figure.text(left + 2 * gap, bottom + 0.04 * height, _describe(group) + rest, fontsize=6, color="0.3")
    for number, member in enumerate(shown):
        place = (left + (number + 0.06) * width, bottom + 0.17 * height, 0.88 * width, 0.68 * height)
        axis = figure.add_axes(place)
        axis.set_axis_off()
        picture = load(member)
        picture.thumbnail((200, 200))
        axis.imshow(picture)
        name = _end_of(names[member], round(20 * _CELL[0]))
        figure.text(place[0] + place[2] / 2, bottom + 0.88 * height, name, fontsize=5, ha="center", parse_math=False)


def _describe(group: DuplicateGroup) -> str:
    return group.kind if group.kind != "near" else f"{group.similarity:.3f}{' mirrored' if group.mirrored else ''}"


def _end_of(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def format_duplicates(found: Duplicates, most: int = 20) -> str:
    """How many of each kind, then the first groups."""
    kinds = [group.kind for group in found.groups]
    lines = [
        f"{len(found.names):,} images: {len(kinds)} groups of duplicates "
        f"({', '.join(f'{kinds.count(kind)} {words}' for kind, words in _KINDS.items())})",
        f"near: similarity at least {found.calibration.threshold:.3f}, which {found.calibration.recall:.1%} of "
        f"{found.calibration.copies} copies made of these images reach",
    ]
    if found.skipped:
        lines.append(f"{len(found.skipped)} unreadable, left out: {', '.join(_few(found.skipped))}")
    if found.flat:
        lines.append(f"{len(found.flat)} without texture, compared by pixels alone")
    if found.families:
        lines.append(
            f"{sum(map(len, found.families))} in {len(found.families)} families, like many that are not "
            "like each other: in no group of near duplicates"
        )
    for group in found.groups[:most]:
        lines.append(f"  {_describe(group)}: {', '.join(_few([found.names[member] for member in group.members]))}")
    if len(found.groups) > most:
        lines.append(f"  and {len(found.groups) - most} more groups: --output FILE.json writes all")
    return "\n".join(lines)


_KINDS = {"bytes": "of equal files", "pixels": "of equal pixels", "near": "of near ones"}


def _few(names: Sequence[str], most: int = 6) -> list[str]:
    return [*names[:most], *([f"and {len(names) - most} more"] if len(names) > most else [])]
