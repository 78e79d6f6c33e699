"""`synco-hub data duplicates`: pictures that are there twice."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from synco_hub.atomic_write import atomic_write
from synco_hub.cli.options import DuplicatesOptions
from synco_hub.data.duplicates import DuplicateGroup, Duplicates, find_duplicates
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.embedding import open_splits, write_embeddings
from synco_hub.embedding_tables import Embeddings
from synco_hub.output_paths import check_output_file
from synco_hub.settings import DatasetChoice, EmbeddingSettings
from synco_hub.visualization import save_figure

GROUPS_DRAWN, FILES_DRAWN = 40, 8


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
        figure = draw_duplicates(found, lambda member: places[member][0].load_image(places[member][1]))
        print(f"wrote {save_figure(figure, options.figure, dpi=120)}")


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


def draw_duplicates(found: Duplicates, load: Callable[[int], Any]) -> Figure:
    """A row for each of the first groups, with what `load` gives for its members."""
    shown = found.groups[:GROUPS_DRAWN]
    columns = max([2, *(min(len(group.members), FILES_DRAWN) for group in shown)])
    figure = Figure(figsize=(1.5 * columns, 0.5 + 1.8 * max(len(shown), 1)), layout="constrained")
    figure.suptitle(f"{len(shown)} of {len(found.groups)} groups of duplicates", fontsize=8)
    axes = figure.subplots(max(len(shown), 1), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, group in zip(axes, shown, strict=False):
        for axis, member in zip(row, group.members, strict=False):
            picture = load(member)
            picture.thumbnail((160, 160))
            axis.imshow(picture)
            axis.set_title(_end_of(found.names[member]), fontsize=5, pad=2)
        rest = f", {len(group.members) - FILES_DRAWN} more" if len(group.members) > FILES_DRAWN else ""
        row[0].text(0, -0.02, _describe(group) + rest, fontsize=5, va="top", transform=row[0].transAxes)
    return figure


def _describe(group: DuplicateGroup) -> str:
    return group.kind if group.kind != "near" else f"{group.similarity:.3f}{' mirrored' if group.mirrored else ''}"


def _end_of(name: str, most: int = 28) -> str:
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
