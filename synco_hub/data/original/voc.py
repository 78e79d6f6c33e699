"""PASCAL VOC 2007 as its archives unpack: several classes an image, and instances too difficult to count."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import numpy.typing as npt

from synco_hub.data.class_lists import class_list
from synco_hub.data.original.split import OriginalSplit, lines_of, require_located

# The lists' own numbers: present, only difficult instances, absent.
_OF_LIST = {"1": 1.0, "0": -1.0, "-1": 0.0}


def read_voc2007(folder: Path, split: str) -> OriginalSplit:
    """`VOC2007/JPEGImages` with `ImageSets/Main/<class>_trainval.txt` and `<class>_test.txt`, or with `Annotations`.

    Args:
        folder: `VOC2007`, `VOCdevkit`, or the folder above.
        split: `train` is trainval, 5,011 images; `test` has 4,952.

    Returns:
        Rows of 1 for a class that is there, 0 for one that is not, -1 for one with difficult instances only, which
        neither loss nor metric counts.

    Raises:
        ValueError: If a list or an annotation is missing or damaged.
    """
    part = "trainval" if split == "train" else "test"
    main = f"ImageSets/Main/{part}.txt"
    root = require_located(folder, f"PASCAL VOC 2007 ({part})", main, "JPEGImages")
    names = [line.split()[0] for line in lines_of(root / main)]
    class_names = class_list("voc2007")
    lists = [root / "ImageSets" / "Main" / f"{name}_{part}.txt" for name in class_names]
    if all(path.is_file() for path in lists):
        rows, rule = np.stack([_column(path, names) for path in lists], axis=1), f"{part} lists of ImageSets/Main"
    else:
        annotations = [root / "Annotations" / f"{name}.xml" for name in names]
        rows = np.stack([_annotated(path, class_names) for path in annotations])
        rule = f"{main} and Annotations"
    unlabeled = [-1] * len(names)
    images = [f"{name}.jpg" for name in names]
    return OriginalSplit(root / "JPEGImages", images, unlabeled, class_names, rule, rows)


def _column(path: Path, names: list[str]) -> npt.NDArray[np.float32]:
    """One class of all images."""
    values: dict[str, float] = {}
    for line in lines_of(path):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in _OF_LIST:
            raise ValueError(f"{path}: the line {line!r} is not an image and 1, 0 or -1; unpack the archive again.")
        values[fields[0]] = _OF_LIST[fields[1]]
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{path}: {len(missing)} images of the split are not in it (first {missing[0]!r}).")
    return np.array([values[name] for name in names], dtype=np.float32)


def _annotated(path: Path, class_names: tuple[str, ...]) -> npt.NDArray[np.float32]:
    """One image, from its objects."""
    row = np.zeros(len(class_names), dtype=np.float32)
    try:
        objects = ElementTree.fromstring(path.read_bytes()).findall("object")
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(
            f"{path}: not a readable annotation ({error}); unpack the original archives again."
        ) from error
    for each in objects:
        name = (each.findtext("name") or "").strip()
        if name not in class_names:
            raise ValueError(f"{path}: {name!r} is not among the {len(class_names)} classes of the set.")
        index = class_names.index(name)
        if (each.findtext("difficult") or "0").strip() != "1":
            row[index] = 1.0
        elif row[index] == 0.0:
            row[index] = -1.0
    return row
