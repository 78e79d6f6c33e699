"""Folders as version 0.1 read them, so that runs that it began go on with the same images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from synco_hub.data.folder_files import VERSION_0_1_EXTENSIONS, FolderFiles, list_image_files, list_subfolders
from synco_hub.data.folder_layout import say_test_folder
from synco_hub.data.image_dataset import UNLABELED
from synco_hub.data.image_folder import ImageFolderDataset, draw_stratified_test_mask, say_drawn_split


def load_version_0_1_images(root: str | os.PathLike[str], split: str = "train", seed: int = 0) -> ImageFolderDataset:
    """The training or test images, of fewer extensions than now; pretraining learned from those for training.

    Splits were `train` beside `test`, `val` or `validation`, and classes those of the training images.
    """
    root = Path(root).expanduser()
    folders = list_subfolders(root)
    tests = [name for name in ("test", "val", "validation") if name in folders]
    is_split = "train" in folders and bool(tests)
    is_lone = folders == ["train"] and bool(list_subfolders(root / "train"))
    place = root / "train" if is_split or is_lone else root
    names, class_names = _list_labeled(place)
    rule = "no class folders: all images are for training"
    if is_split:
        chosen = next((name for name in tests if list_subfolders(root / name)), tests[0])
        rule = f"folder train/ for train, {say_test_folder(chosen, tests)}"
        if split == "test":
            place = root / chosen
            names, found = _list_labeled(place)
            class_names = class_names or found
    labels = _number(names, class_names)
    if class_names and not is_split:
        is_test = draw_stratified_test_mask(names, labels, seed)
        rule, kept = say_drawn_split(is_test, seed), np.flatnonzero(is_test if split == "test" else ~is_test)
        names, labels = [names[k] for k in kept], [labels[k] for k in kept]
    dataset = ImageFolderDataset(place, names, labels, class_names, split, rule, name=root.name)
    dataset.num_found = len(list_image_files(root))
    return dataset


def _list_labeled(place: Path) -> tuple[list[str], list[str]]:
    """Images in class folders, or else all, and the classes."""
    files = FolderFiles.of(place, VERSION_0_1_EXTENSIONS).images
    names = [name for name in files if "/" in name] or files
    return names, sorted({name.split("/", 1)[0] for name in names if "/" in name})


def _number(names: list[str], class_names: list[str]) -> list[int]:
    index = {name: number for number, name in enumerate(class_names)}
    return [index.get(name.split("/", 1)[0], UNLABELED) if "/" in name else UNLABELED for name in names]
