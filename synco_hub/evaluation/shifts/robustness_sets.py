"""The shifted and corrupted ImageNets of Table 13: where their files lie, and the cells that they are measured in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageDataset, UnreadableImageError, load_dataset
from synco_hub.data.catalog.folder import HOLD_OUT_CORRUPTIONS
from synco_hub.data.catalog.robustness import BENCHMARK_CORRUPTIONS
from synco_hub.data.centre_crop import CentreCropTransform
from synco_hub.data.class_folders import read_class_folders
from synco_hub.data.corruptions import SEVERITIES, ChangedDataset, Corruption, WatermarkedImages

_VALIDATION = ("imagenet/val", "imagenet-1k/val", "ILSVRC2012/val", "val")


@dataclass(frozen=True)
class RobustnessSet:
    """One column of Table 13, or several.

    Attributes:
        key: Begins the names of its metrics.
        folders: Where its files may lie below the data folder.
        class_list: The classes that its labels follow; a subset of 200 is measured among these too.
        hub_name: Name of the catalog whose Hub copy can be read without files; None where there is none.
    """

    key: str
    folders: tuple[str, ...]
    class_list: str = "imagenet_1k"
    hub_name: str | None = None

    @property
    def is_subset(self) -> bool:
        """Whether it has some of ImageNet's classes only."""
        return self.class_list != "imagenet_1k"


ROBUSTNESS_SETS: dict[str, RobustnessSet] = {
    "imagenet": RobustnessSet("imagenet", _VALIDATION, hub_name="imagenet-1k"),
    "imagenet-v2-mf": RobustnessSet(
        "imagenet_v2_mf", ("imagenetv2-matched-frequency-format-val", "imagenet-v2-matched-frequency")
    ),
    "imagenet-v2-t0.7": RobustnessSet(
        "imagenet_v2_t0.7", ("imagenetv2-threshold0.7-format-val", "imagenet-v2-threshold0.7")
    ),
    "imagenet-v2-ti": RobustnessSet("imagenet_v2_ti", ("imagenetv2-top-images-format-val", "imagenet-v2-top-images")),
    "imagenet-c": RobustnessSet("imagenet_c", ("imagenet-c", "ImageNet-C")),
    "imagenet-a": RobustnessSet("imagenet_a", ("imagenet-a",), "imagenet_a", "imagenet-a"),
    "imagenet-w": RobustnessSet("imagenet_w", _VALIDATION, hub_name="imagenet-1k"),
    "imagenet-sketch": RobustnessSet("imagenet_sketch", ("imagenet-sketch", "sketch"), hub_name="imagenet-sketch"),
    "imagenet-r": RobustnessSet("imagenet_r", ("imagenet-r",), "imagenet_r", "imagenet-r"),
}


@dataclass(frozen=True)
class PlannedCell:
    """A cell before it is measured.

    Attributes:
        key: Set, and for corruptions corruption and severity, with slashes between.
        open: Reads the file names and gives the data set.
        class_list: The classes that its labels follow; None for those of the classifier itself.
    """

    key: str
    open: Callable[[], EvaluationDataset]
    class_list: str | None = None


def chosen_sets(names: str) -> list[str]:
    """Names of sets, each once.

    Args:
        names: Keys of `ROBUSTNESS_SETS` separated by commas; "all" for every one.

    Raises:
        ValueError: If a name is unknown or none is given.
    """
    if names.strip() == "all":
        return list(ROBUSTNESS_SETS)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in ROBUSTNESS_SETS]
    if unknown or not wanted:
        raise ValueError(f"sets {names!r}: {unknown or 'none'} given, known are {', '.join(ROBUSTNESS_SETS)} and all")
    return list(dict.fromkeys(wanted))


def planned_cells(
    name: str, data_dir: Path | None, transform: EvaluationTransform, corruptions: Sequence[str] | None = None
) -> list[PlannedCell]:
    """The cells of one set.

    Args:
        name: A key of `ROBUSTNESS_SETS`.
        data_dir: Holds the sets' folders; None reads the Hub copy where there is one.
        transform: Of the model.
        corruptions: Of ImageNet-C only these; None for the fifteen.

    Raises:
        FileNotFoundError: If the set's folder is not there.
        ImportError: If the watermark of ImageNet-W is not installed.
        ValueError: If folders of corruptions are missing (all are named), or the set has no copy on the Hub.
    """
    chosen = ROBUSTNESS_SETS[name]
    if name == "imagenet-c":
        folders = corruption_folders(found_folder(name, data_dir), corruptions)
        crop = CentreCropTransform(transform)
        return [_corruption_cell(chosen, place, folder, crop) for place, folder in folders.items()]
    folder = None if data_dir is None and chosen.hub_name else found_folder(name, data_dir)

    def images() -> ImageDataset:
        if folder is not None:
            return read_class_folders(folder, chosen.class_list, whole=chosen.is_subset)
        return load_dataset(str(chosen.hub_name), "test")

    if name == "imagenet-w":
        # Now and not when its turn comes: whether the watermark can be drawn is known before hours of other sets.
        watermarked = WatermarkedImages(images())
        return [PlannedCell(chosen.key, lambda: EvaluationDataset(watermarked, transform), chosen.class_list)]
    return [PlannedCell(chosen.key, lambda: EvaluationDataset(images(), transform), chosen.class_list)]


def planned_corruptions(
    images: ImageDataset, transform: EvaluationTransform, seed: int, corruptions: Sequence[str] | None = None
) -> list[PlannedCell]:
    """Cells of corruptions drawn on the fly, the clean images first.

    Args:
        images: Any labelled images.
        transform: Of the model.
        seed: Of everything that is drawn.
        corruptions: Some of the fifteen; None for all.
    """
    cells = [PlannedCell("clean", lambda: EvaluationDataset(images, transform))]
    for name in checked_corruptions(corruptions):
        for severity in SEVERITIES:
            dataset = partial(ChangedDataset, images, transform, Corruption(name, severity, seed))
            cells.append(PlannedCell(f"corrupted/{name}/{severity}", dataset))
    return cells


def checked_corruptions(corruptions: Sequence[str] | None) -> list[str]:
    """The fifteen corruptions, or some of them in their order.

    Raises:
        ValueError: If one is unknown, or a hold-out, which no average here contains, or none is given.
    """
    unknown = [name for name in corruptions or () if name not in BENCHMARK_CORRUPTIONS]
    if unknown or (corruptions is not None and not corruptions):
        hold_outs = ", ".join(sorted(HOLD_OUT_CORRUPTIONS))
        raise ValueError(
            f"corruptions {unknown or 'none'}: use some of {', '.join(BENCHMARK_CORRUPTIONS)} "
            f"(the hold-outs {hold_outs} are not part of the benchmark's averages)"
        )
    return [name for name in BENCHMARK_CORRUPTIONS if corruptions is None or name in corruptions]


def corruption_folders(folder: Path, corruptions: Sequence[str] | None = None) -> dict[tuple[str, int], Path]:
    """Folders of ImageNet-C: `<corruption>/<severity>`, directly or below the archives' names (`noise/…`).

    Args:
        folder: Of ImageNet-C.
        corruptions: Some of the fifteen; None for all.

    Raises:
        ValueError: Naming every folder that is missing.
    """
    archives = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    found, missing = {}, []
    for name in checked_corruptions(corruptions):
        for severity in SEVERITIES:
            places = (archive / name / str(severity) for archive in archives)
            place = next((path for path in places if path.is_dir()), None)
            if place is None:
                missing.append(f"{name}/{severity}")
            else:
                found[name, severity] = place
    if missing:
        raise ValueError(
            f"{folder}: {len(missing)} of the folders <corruption>/<severity> are missing: {', '.join(missing)}; "
            "unpack the archives noise, blur, weather and digital there, or name corruptions with --corruptions"
        )
    return found


def found_folder(name: str, data_dir: Path | None) -> Path:
    """Where a set lies.

    Raises:
        FileNotFoundError: If none of its folders is there.
        ValueError: If no data folder is given.
    """
    folders = ROBUSTNESS_SETS[name].folders
    if data_dir is None:
        raise ValueError(f"{name} has no copy on the Hub: give the folder that holds {folders[0]}/ with --data-dir")
    for folder in folders:
        if (data_dir / folder).is_dir():
            return data_dir / folder
    raise FileNotFoundError(f"{name} is not in {data_dir}: looked for {', '.join(f'{folder}/' for folder in folders)}")


def _corruption_cell(
    chosen: RobustnessSet, place: tuple[str, int], folder: Path, crop: CentreCropTransform
) -> PlannedCell:
    def dataset() -> EvaluationDataset:
        images = read_class_folders(folder, chosen.class_list)
        with contextlib.suppress(UnreadableImageError):
            # A wrong size is said here in one line; from a worker process it would come with its traceback.
            crop(images.load_image(0))
        return EvaluationDataset(images, crop)

    return PlannedCell(f"{chosen.key}/{place[0]}/{place[1]}", dataset, chosen.class_list)
