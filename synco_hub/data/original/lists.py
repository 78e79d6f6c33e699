"""Sets whose splits are text files: Pets, Food-101, DTD, FGVC Aircraft and SUN397, as their archives unpack."""

from __future__ import annotations

from pathlib import Path

from synco_hub.data.original.split import OriginalSplit, indices_of, lines_of, require_located


def read_oxford_pets(folder: Path, split: str) -> OriginalSplit:
    """`images/*.jpg` with `annotations/trainval.txt` and `test.txt`: image, class from 1, species, breed."""
    root = require_located(folder, "Oxford-IIIT Pets", "annotations/trainval.txt", "images")
    breeds: dict[int, str] = {}
    names, labels = [], []
    for part in ("trainval", "test"):
        file = root / "annotations" / f"{part}.txt"
        for line in (line for line in lines_of(file) if not line.startswith("#")):
            name, number = _fields(line, file, 4)[:2]
            label, breed = _whole(number, file) - 1, name.rsplit("_", 1)[0]
            if breeds.setdefault(label, breed) != breed:
                raise ValueError(
                    f"{file}: class {label + 1} is {breeds[label]!r} and {breed!r}; labels and images do not belong "
                    "together, unpack annotations.tar.gz again."
                )
            if part == ("trainval" if split == "train" else "test"):
                names.append(f"{name}.jpg")
                labels.append(label)
    class_names = [breeds.get(label, f"missing class {label + 1}") for label in range(max(breeds) + 1)]
    indices_of([], class_names, root / "annotations")
    return OriginalSplit(root / "images", names, labels, class_names, f"{_official(split)} list of annotations/")


def read_food101(folder: Path, split: str) -> OriginalSplit:
    """`images/<class>/*.jpg` with `meta/train.txt`, `meta/test.txt` and `meta/classes.txt`."""
    root = require_located(folder, "Food-101", "meta/train.txt", "images")
    file = root / "meta" / f"{split}.txt"
    names = lines_of(file)
    classes = root / "meta" / "classes.txt"
    of_images = [name.split("/")[0] for name in names]
    class_names = sorted(lines_of(classes) if classes.is_file() else {*_folders_of(root / "meta" / "train.txt")})
    labels = indices_of(of_images, class_names, file)
    return OriginalSplit(root / "images", [f"{name}.jpg" for name in names], labels, class_names, f"meta/{split}.txt")


def read_dtd(folder: Path, split: str, partition: int = 1) -> OriginalSplit:
    """`images/<class>/*.jpg` with `labels/train1.txt`, `val1.txt`, `test1.txt`; training is train and val together."""
    root = require_located(folder, "DTD", f"labels/train{partition}.txt", "images")
    files = [root / "labels" / f"{part}{partition}.txt" for part in ("train", "val", "test")]
    class_names = sorted({name for file in files for name in _folders_of(file)})
    names = [name for file in (files[:2] if split == "train" else files[2:]) for name in lines_of(file)]
    labels = indices_of([name.split("/")[0] for name in names], class_names, files[0])
    return OriginalSplit(root / "images", names, labels, class_names, f"partition {partition} of labels/")


def read_fgvc_aircraft(folder: Path, split: str) -> OriginalSplit:
    """`images/*.jpg` with `images_variant_trainval.txt`, `images_variant_test.txt` and `variants.txt`."""
    root = require_located(folder, "FGVC Aircraft", "variants.txt", "images_variant_trainval.txt")
    file = root / f"images_variant_{'trainval' if split == 'train' else 'test'}.txt"
    rows = [line.split(" ", 1) for line in lines_of(file)]
    if any(len(row) != 2 for row in rows):
        raise ValueError(f"{file}: a line is not an image and its variant; unpack the original archive again.")
    class_names = lines_of(root / "variants.txt")
    labels = indices_of([row[1] for row in rows], class_names, file)
    return OriginalSplit(root / "images", [f"{row[0]}.jpg" for row in rows], labels, class_names, file.name)


def read_sun397(folder: Path, split: str, partition: int = 1) -> OriginalSplit:
    """`<letter>/<class>/*.jpg` with `ClassName.txt`, `Training_01.txt` and `Testing_01.txt` of the partitions."""
    training = f"Training_{partition:02d}.txt"
    lists = require_located(folder, "SUN397's partitions", training, "ClassName.txt")
    class_names = lines_of(lists / "ClassName.txt")
    file = lists / (training if split == "train" else f"Testing_{partition:02d}.txt")
    names = lines_of(file)
    labels = indices_of([name.rsplit("/", 1)[0] for name in names], class_names, file)
    # The lists may lie among the images or in a folder of their own.
    root = require_located(folder, "SUN397's images", class_names[0].strip("/"))
    return OriginalSplit(
        root, [name.strip("/") for name in names], labels, [name[3:] for name in class_names], f"partition {file.name}"
    )


def _official(split: str) -> str:
    return "trainval" if split == "train" else "test"


def _folders_of(file: Path) -> set[str]:
    return {name.split("/")[0] for name in lines_of(file)}


def _fields(line: str, file: Path, count: int) -> list[str]:
    fields = line.split()
    if len(fields) != count:
        raise ValueError(f"{file}: the line {line!r} has {len(fields)} fields, not {count}; unpack the archive again.")
    return fields


def _whole(text: str, file: Path) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{file}: class {text!r} is no whole number from 1; unpack the original archive again.")
    return int(text)
