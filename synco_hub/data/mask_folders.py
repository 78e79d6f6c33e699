"""Folders of images and of their masks.

A folder is laid out in one of these ways, which is told by what is there:

    images/train/*, images/test/*          beside masks/train/*, masks/test/*
    train/images/*, test/images/*          beside train/masks/*, test/masks/*
    images/*                               beside masks/*; a fifth, drawn by --split-seed, is then for testing
    JPEGImages/*, ImageSets/Segmentation/train.txt, val.txt   beside SegmentationClass/* (as VOC's archive unpacks)

Masks may lie in `annotations` or `labels` as well (as ADE20K's archive unpacks), and a test split may be called val or
validation. A mask has its image's name, but for the extension; which files are images says `folder_files.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from synco_hub.data.folder_files import FolderFiles
from synco_hub.data.folder_layout import warn_of_others
from synco_hub.data.folder_splits import SplitKind, list_split_folders
from synco_hub.data.masked_images import MaskedImages

_IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
_MASKS = ("masks", "mask", "annotations", "labels", "SegmentationClass")
_TEST_SHARE = 0.2


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def has_masks(folder: Path) -> bool:
    places = (folder, *(each for each in folder.iterdir() if each.is_dir())) if folder.is_dir() else ()
    return any(_subfolder(place, _IMAGES) and _subfolder(place, _MASKS) for place in places)


def read_mask_folder(root: Path, name: str, seed: int) -> tuple[MaskedImages, MaskedImages]:
    """Training and test images of a folder in one of the layouts."""
    images, masks = _subfolder(root, _IMAGES), _subfolder(root, _MASKS)
    pairs: dict[SplitKind, list[tuple[str, Path, Path]]] = {}
    if images is not None and masks is not None:
        lists = root / "ImageSets" / "Segmentation"
        if lists.is_dir():
            found = {kind: _of_lists(lists, kind) for kind in (SplitKind.train, SplitKind.test)}
            everything = {pair[0]: pair for pair in _pair(images, masks, every=False)}
            for kind, listed in found.items():
                pairs[kind] = [_take(everything, each, images, masks) for each in listed]
        else:
            for kind, inner in _split_pairs(images, masks).items():
                pairs[kind] = _pair(*inner)
            if not pairs:
                return _draw_split(_pair(images, masks), name, seed)
    elif root.is_dir():
        for kind in (SplitKind.train, SplitKind.test):
            for each in list_split_folders([path.name for path in root.iterdir()], kind):
                inner_images, inner_masks = (_subfolder(root / each, names) for names in (_IMAGES, _MASKS))
                if inner_images and inner_masks and kind not in pairs:
                    pairs[kind] = _pair(inner_images, inner_masks)
    if set(pairs) != {SplitKind.train, SplitKind.test}:
        raise FileNotFoundError(
            f"{str(root)!r} has no training and test images with masks: lay them out as images/train, images/test, "
            "masks/train and masks/test, or as VOC2012 or ADE20K unpack."
        )
    return tuple(_of_files(name, kind.value, pairs[kind]) for kind in (SplitKind.train, SplitKind.test))  # type: ignore[return-value]


def _split_pairs(images: Path, masks: Path) -> dict[SplitKind, tuple[Path, Path]]:
    """Split folders of images that have one of masks, the preferred of each kind."""
    found: dict[SplitKind, tuple[Path, Path]] = {}
    for kind in (SplitKind.train, SplitKind.test):
        for name in list_split_folders([path.name for path in images.iterdir() if path.is_dir()], kind):
            if (masks / name).is_dir() and kind not in found:
                found[kind] = (images / name, masks / name)
    return found


def _pair(images: Path, masks: Path, every: bool = True) -> list[tuple[str, Path, Path]]:
    """Name, image and mask of each image below a folder."""
    mask_of = _list_pictures(masks)
    pairs = list(_list_pictures(images).items())
    lacking = [name for name, _ in pairs if name not in mask_of]
    if every and lacking:
        raise FileNotFoundError(
            f"{len(lacking)} of {len(pairs)} images in {str(images)!r} have no mask in {str(masks)!r} (first: "
            f"{lacking[0]}): a mask has its image's name; add them, or move the images out."
        )
    return [(name, path, mask_of[name]) for name, path in pairs if name in mask_of]


def _list_pictures(folder: Path) -> dict[str, Path]:
    """Pictures below a folder by their names without extension, of which each has one of its own."""
    files = FolderFiles.of(folder)
    warn_of_others(folder, files)
    found: dict[str, Path] = {}
    for file in files.images:
        name = str(Path(file).with_suffix(""))
        if name in found:
            raise ValueError(
                f"{str(found[name])!r} and {file} differ in their extension alone, so that it is unknown which mask "
                "is of which image: move one out."
            )
        found[name] = folder / file
    return found


def _of_lists(lists: Path, kind: SplitKind) -> list[str]:
    for name in list_split_folders([path.stem for path in lists.glob("*.txt")], kind):
        # The test images of VOC2012 have no public masks.
        if name != "test" and (listed := (lists / f"{name}.txt").read_text(encoding="utf-8").split()):
            return listed
    raise FileNotFoundError(f"{str(lists)!r} has no list of {kind.value} images: unpack the archive again.")


def _take(
    everything: dict[str, tuple[str, Path, Path]], name: str, images: Path, masks: Path
) -> tuple[str, Path, Path]:
    if name not in everything:
        raise FileNotFoundError(
            f"{name} is listed, but has no image in {str(images)!r} or no mask in {str(masks)!r}: unpack the archive "
            "again."
        )
    return everything[name]


def _draw_split(pairs: list[tuple[str, Path, Path]], name: str, seed: int) -> tuple[MaskedImages, MaskedImages]:
    order = np.random.default_rng(seed).permutation(len(pairs))
    count = max(round(_TEST_SHARE * len(pairs)), 1)
    rule = f"{1 - _TEST_SHARE:.0%} for training, {_TEST_SHARE:.0%} for testing, drawn by seed {seed}"
    parts = [sorted(part.tolist()) for part in (order[count:], order[:count])]
    train, test = (
        replace(_of_files(name, split, [pairs[index] for index in part]), split_rule=rule)
        for split, part in zip(("train", "test"), parts, strict=True)
    )
    return train, test


def _of_files(name: str, split: str, pairs: Sequence[tuple[str, Path, Path]]) -> MaskedImages:
    if not pairs:
        raise ValueError(f"{name!r} has no {split} image with a mask: at least one is needed.")
    for called, image, mask in pairs:
        _compare_sizes(called, image, mask)
    return MaskedImages(
        name,
        split,
        (),
        tuple(called for called, _, _ in pairs),
        tuple(_Files(image, mask) for _, image, mask in pairs),
    )


def _compare_sizes(name: str, image: Path, mask: Path) -> None:
    """From the headers alone, before hours of features; turned pictures are compared when they are read."""
    try:
        with Image.open(image) as one, Image.open(mask) as other:
            if sorted(one.size) != sorted(other.size):
                raise ValueError(
                    f"the mask of {name} is {other.width}x{other.height}, its image {one.width}x{one.height}: both "
                    "need one size; correct or remove them."
                )
    except OSError:
        return  # reading it says what is wrong


@dataclass(frozen=True)
class _Files:
    image: Path
    mask: Path

    def __call__(self) -> tuple[bytes, bytes]:
        return self.image.read_bytes(), self.mask.read_bytes()
