"""The shifted and corrupted ImageNets of Table 13: where their files lie, and the cells that they are measured in."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageDataset, UnreadableImageError, load_dataset
from synco_hub.data.catalog.loading import find_corruption_folders, find_set_folder, require_every_class
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS, CATALOG, HOLD_OUT_CORRUPTIONS
from synco_hub.data.class_labels import IMAGENET
from synco_hub.data.corruptions import (
    DRAWING_VERSIONS,
    IMPLEMENTATIONS,
    LABEL,
    SEVERITIES,
    SMALLEST_SIDE,
    ChangedDataset,
    Corruption,
    require_package,
)
from synco_hub.data.evaluation_transform import CentreCropTransform
from synco_hub.data.subsets import sample_images
from synco_hub.evaluation.measurement import EvaluatedModel, open_split, preprocessing
from synco_hub.settings import DatasetChoice, RobustnessSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RobustnessSet:
    """One column of Table 13, or several.

    Attributes:
        key: Begins the names of its metrics.
        dataset: Its name in the catalog, which finds its files or its copy on the Hub.
    """

    key: str
    dataset: str

    @property
    def class_list(self) -> str:
        """The classes that its labels follow; a subset of 200 is measured among these too."""
        return str(CATALOG[self.dataset].class_list)

    @property
    def is_subset(self) -> bool:
        """Whether it has some of ImageNet's classes only."""
        return self.class_list != IMAGENET


ROBUSTNESS_SETS: dict[str, RobustnessSet] = {
    "imagenet": RobustnessSet("imagenet", "imagenet-1k"),
    "imagenet-v2-mf": RobustnessSet("imagenet_v2_mf", "imagenet-v2-matched-frequency"),
    "imagenet-v2-t0.7": RobustnessSet("imagenet_v2_t0.7", "imagenet-v2-threshold0.7"),
    "imagenet-v2-ti": RobustnessSet("imagenet_v2_ti", "imagenet-v2-top-images"),
    "imagenet-c": RobustnessSet("imagenet_c", "imagenet-c"),
    "imagenet-a": RobustnessSet("imagenet_a", "imagenet-a"),
    "imagenet-w": RobustnessSet("imagenet_w", "imagenet-w"),
    "imagenet-sketch": RobustnessSet("imagenet_sketch", "imagenet-sketch"),
    "imagenet-r": RobustnessSet("imagenet_r", "imagenet-r"),
}


@dataclass(frozen=True)
class PlannedCell:
    """A cell before it is measured.

    Attributes:
        key: Set, and for corruptions corruption and severity, with slashes between.
        open: Reads the file names and gives the data set.
        class_list: The classes that its labels follow; None for those of the classifier itself.
        drawing: Version of how its corruption is drawn.
    """

    key: str
    open: Callable[[], EvaluationDataset]
    class_list: str | None = None
    drawing: int = 1


@dataclass(frozen=True)
class RobustnessPlan:
    """The cells of a measurement, and what its result says beside them.

    Attributes:
        cells: In the order in which they are measured.
        protocol: ``robustness``, or ``robustness_on_the_fly``.
        data_name: What the images are called.
        description: Where they come from.
        preprocessing: How an image became the network's input.
        seed: Of what is drawn, None if nothing is.
        notes: What a reader has to know.
        subset: Whether less is planned than the protocol asks for.
        data_fingerprint: Of the data set that all cells are made of; None where each cell is a set of its own.
        earlier_fingerprint: Of the same data in earlier versions, where it was another.
    """

    cells: Sequence[PlannedCell]
    protocol: str
    data_name: str
    description: str
    preprocessing: dict[str, Any]
    seed: int | None = None
    notes: tuple[str, ...] = ()
    subset: bool = False
    data_fingerprint: str | None = None
    earlier_fingerprint: str | None = None


def plan_published(model: EvaluatedModel, data: DatasetChoice, settings: RobustnessSettings) -> RobustnessPlan:
    """The sets that were named; without names all that lie in the data folder, the absent ones noted."""
    data_dir = None if data.data_dir is None else Path(data.data_dir)
    if data_dir is not None and not data_dir.is_dir():
        raise FileNotFoundError(f"--data-dir {data_dir}: no such folder; give the one that holds the sets.")
    if data_dir is None and settings.sets is None:
        raise ValueError("--data-dir is missing: give the folder that holds the sets, or --sets to read Hub copies.")
    corruptions, transform = _names(settings.corruptions), model.transform
    cells, absent = [], []
    for name in choose_sets(settings.sets or "all"):
        try:
            cells += plan_cells(name, data_dir, transform, corruptions, data)
        except (FileNotFoundError, ImportError) as error:
            if settings.sets is not None:
                raise
            absent.append(name)
            logger.warning("left out: %s", error)
    if not cells:
        raise FileNotFoundError(
            f"none of the sets is in {data_dir}: it should hold imagenet-a/, imagenet-c/ or others"
        )
    return RobustnessPlan(
        cells,
        "robustness",
        "ImageNet variants",
        "copies on the Hub" if data_dir is None else str(data_dir.resolve()),
        {
            "steps": repr(transform),
            "imagenet_c": f"centre crop {transform.image_size} only",
            "mean": list(transform.mean),
            "std": list(transform.std),
        },
        notes=(f"not measured: {', '.join(absent)}",) if absent else (),
        subset=bool(absent or corruptions),
    )


def plan_on_the_fly(model: EvaluatedModel, data: DatasetChoice, settings: RobustnessSettings) -> RobustnessPlan:
    """Every corruption and severity on the test images of a data set, or on some of them."""
    require_package()
    whole, corruptions = open_split(data, "test", model), _names(settings.corruptions)
    if whole.transform.image_size < SMALLEST_SIDE:
        raise ValueError(
            f"a model of {whole.transform.image_size} pixels: corruptions need {SMALLEST_SIDE}; use another model"
        )
    images, subset = sample_images(whole.images, settings.num_images, settings.seed)
    about = images.description
    return RobustnessPlan(
        plan_corruptions(images, whole.transform, settings.seed, corruptions),
        "robustness_on_the_fly",
        about.name,
        f"{about.source}; {about.split_rule}; fingerprint {about.fingerprint}",
        preprocessing(whole),
        settings.seed,
        (LABEL, IMPLEMENTATIONS),
        subset is not None or corruptions is not None,
        about.fingerprint,
        about.earlier_fingerprint,
    )


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def choose_sets(names: str) -> list[str]:
    """Names of sets, each once."""
    if names.strip() == "all":
        return list(ROBUSTNESS_SETS)
    wanted = _names(names) or []
    unknown = [name for name in wanted if name not in ROBUSTNESS_SETS]
    if unknown or not wanted:
        raise ValueError(f"sets {names!r}: {unknown or 'none'} given, known are {', '.join(ROBUSTNESS_SETS)} and all")
    return list(dict.fromkeys(wanted))


def plan_cells(
    name: str,
    data_dir: Path | None,
    transform: EvaluationTransform,
    corruptions: Sequence[str] | None = None,
    data: DatasetChoice | None = None,
) -> list[PlannedCell]:
    """The cells of one set; of `data` the revision, the seed of a split and the range of values count."""
    chosen = ROBUSTNESS_SETS[name]
    choice = DatasetChoice(chosen.dataset, None if data_dir is None else str(data_dir))
    if data is not None:
        choice = replace(choice, revision=data.revision, split_seed=data.split_seed, value_range=data.value_range)
    if data_dir is not None:
        find_set_folder(chosen.dataset, data_dir)
    elif not (row := CATALOG[CATALOG[chosen.dataset].base or chosen.dataset]).has_table:
        raise ValueError(
            f"{name} has no copy on the Hub: give the folder that holds {row.folders[0]}/ with --data-dir"
        )
    if name == "imagenet-c":
        places = find_corruption_folders(choice.data_dir or "", check_corruptions(corruptions))
        crop = CentreCropTransform(transform)
        return [_plan_corruption_cell(chosen, f"{corruption}/{at}", choice, crop) for corruption, at in places]

    def images() -> ImageDataset:
        found = load_dataset(choice, "test")
        return require_every_class(found) if chosen.is_subset else found

    if name == "imagenet-w":
        # Now and not when its turn comes: whether the watermark can be drawn is known before hours of other sets.
        watermarked = images()
        return [PlannedCell(chosen.key, lambda: EvaluationDataset(watermarked, transform), chosen.class_list)]
    return [PlannedCell(chosen.key, lambda: EvaluationDataset(images(), transform), chosen.class_list)]


def plan_corruptions(
    images: ImageDataset, transform: EvaluationTransform, seed: int, corruptions: Sequence[str] | None = None
) -> list[PlannedCell]:
    """Cells of corruptions drawn on the fly, the clean images first."""
    cells = [PlannedCell("clean", lambda: EvaluationDataset(images, transform))]
    for name in check_corruptions(corruptions):
        for severity in SEVERITIES:
            dataset = partial(ChangedDataset, images, transform, Corruption(name, severity, seed))
            drawing = DRAWING_VERSIONS.get(name, 1)
            cells.append(PlannedCell(f"corrupted/{name}/{severity}", dataset, drawing=drawing))
    return cells


def check_corruptions(corruptions: Sequence[str] | None) -> list[str]:
    """The fifteen corruptions, or some of them in their order."""
    unknown = [name for name in corruptions or () if name not in BENCHMARK_CORRUPTIONS]
    if unknown or (corruptions is not None and not corruptions):
        hold_outs = ", ".join(sorted(HOLD_OUT_CORRUPTIONS))
        raise ValueError(
            f"corruptions {unknown or 'none'}: use some of {', '.join(BENCHMARK_CORRUPTIONS)} "
            f"(the hold-outs {hold_outs} are not part of the benchmark's averages)"
        )
    return [name for name in BENCHMARK_CORRUPTIONS if corruptions is None or name in corruptions]


def _plan_corruption_cell(
    chosen: RobustnessSet, place: str, choice: DatasetChoice, crop: CentreCropTransform
) -> PlannedCell:
    def dataset() -> EvaluationDataset:
        images = load_dataset(replace(choice, config=place), "test")
        with contextlib.suppress(UnreadableImageError):
            # A wrong size is said here in one line; from a worker process it would come with its traceback.
            crop(images.load_image(0))
        return EvaluationDataset(images, crop)

    return PlannedCell(f"{chosen.key}/{place}", dataset, chosen.class_list)
