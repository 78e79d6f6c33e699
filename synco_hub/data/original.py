"""Data sets as their authors' archives unpack: pickles, idx files, lists in text, MATLAB files, VOC's annotations.

`READERS` says which reader knows a set's files; their folder may lie up to two levels below the one given.
"""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat

from synco_hub.data.class_lists import read_class_list
from synco_hub.data.folder_files import list_subfolders
from synco_hub.data.idx_files import read_idx_folder
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset, PixelArrayDataset, fingerprint
from synco_hub.data.image_folder import ImageFolderDataset
from synco_hub.safe_pickle import PickledArray, load_arrays


class LayoutNotFoundError(ValueError):
    """The files of a set are not where its archives put them."""


@dataclass(frozen=True)
class _OriginalSplit:
    """One split as its list files say: images below a root, in the order of the list, and which list made it.

    Labels are -1 where `multi_hot` (num_images, num_classes) has the classes: 1 present, 0 absent, -1 neither.
    """

    root: Path
    names: Sequence[str]
    labels: Sequence[int]
    class_names: Sequence[str]
    rule: str
    multi_hot: npt.NDArray[np.float32] | None = None

    def dataset(self, split: str) -> ImageFolderDataset:
        """The images, decoded when they are asked for."""
        return ImageFolderDataset(
            self.root, self.names, self.labels, self.class_names, split, self.rule, self.multi_hot
        )


def read_oxford_pets(folder: Path, split: str) -> _OriginalSplit:
    """`images/*.jpg` with `annotations/trainval.txt` and `test.txt`: image, class from 1, species, breed."""
    root = _require_located(folder, "Oxford-IIIT Pets", "annotations/trainval.txt", "images")
    breeds: dict[int, str] = {}
    names, labels = [], []
    for part in ("trainval", "test"):
        file = root / "annotations" / f"{part}.txt"
        for line in (line for line in _read_lines(file) if not line.startswith("#")):
            name, number = _fields(line, file, 4)[:2]
            label, breed = _whole(number, file) - 1, name.rsplit("_", 1)[0]
            if breeds.setdefault(label, breed) != breed:
                raise ValueError(
                    f"{file}: class {label + 1} is {breeds[label]!r} and {breed!r}; labels and images do not belong "
                    "together, unpack annotations.tar.gz again."
                )
            if part == _read_trainval(split):
                names.append(f"{name}.jpg")
                labels.append(label)
    class_names = [breeds.get(label, f"missing class {label + 1}") for label in range(max(breeds) + 1)]
    _find_indices([], class_names, root / "annotations")
    return _OriginalSplit(root / "images", names, labels, class_names, f"{_read_trainval(split)} list of annotations/")


def read_food101(folder: Path, split: str) -> _OriginalSplit:
    """`images/<class>/*.jpg` with `meta/train.txt`, `meta/test.txt` and `meta/classes.txt`."""
    root = _require_located(folder, "Food-101", "meta/train.txt", "images")
    file = root / "meta" / f"{split}.txt"
    names = _read_lines(file)
    classes = root / "meta" / "classes.txt"
    of_images = [name.split("/")[0] for name in names]
    class_names = sorted(_read_lines(classes) if classes.is_file() else {*_list_folders(root / "meta" / "train.txt")})
    labels = _find_indices(of_images, class_names, file)
    return _OriginalSplit(root / "images", [f"{name}.jpg" for name in names], labels, class_names, f"meta/{split}.txt")


def read_dtd(folder: Path, split: str, partition: int = 1) -> _OriginalSplit:
    """`images/<class>/*.jpg` with `labels/train1.txt`, `val1.txt`, `test1.txt`; training is train and val together."""
    root = _require_located(folder, "DTD", f"labels/train{partition}.txt", "images")
    files = [root / "labels" / f"{part}{partition}.txt" for part in ("train", "val", "test")]
    class_names = sorted({name for file in files for name in _list_folders(file)})
    names = [name for file in (files[:2] if split == "train" else files[2:]) for name in _read_lines(file)]
    labels = _find_indices([name.split("/")[0] for name in names], class_names, files[0])
    return _OriginalSplit(root / "images", names, labels, class_names, f"partition {partition} of labels/")


def read_fgvc_aircraft(folder: Path, split: str) -> _OriginalSplit:
    """`images/*.jpg` with `images_variant_trainval.txt`, `images_variant_test.txt` and `variants.txt`."""
    root = _require_located(folder, "FGVC Aircraft", "variants.txt", "images_variant_trainval.txt")
    file = root / f"images_variant_{_read_trainval(split)}.txt"
    rows = [line.split(" ", 1) for line in _read_lines(file)]
    if any(len(row) != 2 for row in rows):
        raise ValueError(f"{file}: a line is not an image and its variant; unpack the original archive again.")
    class_names = _read_lines(root / "variants.txt")
    labels = _find_indices([row[1] for row in rows], class_names, file)
    return _OriginalSplit(root / "images", [f"{row[0]}.jpg" for row in rows], labels, class_names, file.name)


def read_sun397(folder: Path, split: str, partition: int = 1) -> _OriginalSplit:
    """`<letter>/<class>/*.jpg` with `ClassName.txt`, `Training_01.txt` and `Testing_01.txt` of the partitions."""
    training = f"Training_{partition:02d}.txt"
    lists = _require_located(folder, "SUN397's partitions", training, "ClassName.txt")
    class_names = _read_lines(lists / "ClassName.txt")
    file = lists / (training if split == "train" else f"Testing_{partition:02d}.txt")
    names = _read_lines(file)
    labels = _find_indices([name.rsplit("/", 1)[0] for name in names], class_names, file)
    # The lists may lie among the images or in a folder of their own.
    root = _require_located(folder, "SUN397's images", class_names[0].strip("/"))
    return _OriginalSplit(
        root, [name.strip("/") for name in names], labels, [name[3:] for name in class_names], f"partition {file.name}"
    )


def _read_trainval(split: str) -> str:
    return "trainval" if split == "train" else "test"


def _list_folders(file: Path) -> set[str]:
    return {name.split("/")[0] for name in _read_lines(file)}


def _fields(line: str, file: Path, count: int) -> list[str]:
    fields = line.split()
    if len(fields) != count:
        raise ValueError(f"{file}: the line {line!r} has {len(fields)} fields, not {count}; unpack the archive again.")
    return fields


def _whole(text: str, file: Path) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{file}: class {text!r} is no whole number from 1; unpack the original archive again.")
    return int(text)


def read_flowers102(folder: Path, split: str) -> _OriginalSplit:
    """`jpg/image_#####.jpg` with `imagelabels.mat` (labels) and `setid.mat` (trnid, valid, tstid), all from 1.

    Training is trnid and valid together: 1,020 + 1,020 images; tstid has 6,149. Some copies exchange trnid and tstid.
    """
    root = _require_located(folder, "Flowers-102", "setid.mat", "imagelabels.mat", "jpg")
    sets = _read_matlab(root / "setid.mat")
    keys = ("trnid", "valid") if split == "train" else ("tstid",)
    numbers = np.concatenate([_take_matlab_numbers(sets, key, root / "setid.mat") for key in keys])
    labels = _take_matlab_numbers(_read_matlab(root / "imagelabels.mat"), "labels", root / "imagelabels.mat") - 1
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(labels):
        raise ValueError(
            f"{root / 'setid.mat'}: images {numbers.min()} to {numbers.max()}, where imagelabels.mat has {len(labels)}"
            "; the two files are of different sets."
        )
    names = [f"image_{number:05d}.jpg" for number in numbers.tolist()]
    class_names = read_class_list("flowers102")
    return _OriginalSplit(
        root / "jpg", names, labels[numbers - 1].tolist(), class_names, f"{' and '.join(keys)} of setid.mat"
    )


def read_stanford_cars(folder: Path, split: str) -> _OriginalSplit:
    """`cars_train/`, `cars_test/` with `devkit/cars_train_annos.mat` and `cars_test_annos_withlabels.mat`.

    The labelled test annotations lie in the devkit or beside it; those of the devkit alone have no classes.
    """
    root = _require_located(folder, "Stanford Cars", "devkit/cars_meta.mat", f"cars_{split}")
    file = "cars_train_annos.mat" if split == "train" else "cars_test_annos_withlabels.mat"
    path = next((place / file for place in (root / "devkit", root) if (place / file).is_file()), None)
    if path is None:
        raise ValueError(f"{root}: {file} was not found in it or in devkit/; the other files have no test labels.")
    rows: npt.NDArray[Any] = np.atleast_1d(_read_matlab(path).get("annotations", 0))
    names = np.atleast_1d(_read_matlab(root / "devkit" / "cars_meta.mat").get("class_names", 0))
    if not {"class", "fname"} <= set(rows.dtype.names or ()):
        raise ValueError(f"{path}: no annotations with classes; give the files of the devkit.")
    labels = [int(number) - 1 for number in rows["class"]]
    return _OriginalSplit(root / f"cars_{split}", list(map(str, rows["fname"])), labels, list(map(str, names)), file)


def _read_matlab(path: Path) -> dict[str, Any]:
    """Variables by name: numbers as arrays, a cell array as an array of objects, a struct array as one with fields."""
    data = path.read_bytes()
    try:
        return dict(loadmat(io.BytesIO(data), squeeze_me=True))
    except Exception as error:  # scipy has as many kinds of errors as a file can have damages
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: no readable MATLAB file ({reason}); unpack the original archive again.") from error


def _take_matlab_numbers(variables: dict[str, Any], key: str, path: Path) -> npt.NDArray[np.int64]:
    values = np.asarray(variables.get(key))
    if values.dtype.kind not in "iuf":
        raise ValueError(f"{path}: no numbers named {key} among {', '.join(variables)}; unpack the original again.")
    return values.reshape(-1).astype(np.int64)


# Pickled batches of 32 x 32 pixels: files of the training and the test split and of the class names, and the keys of
# labels and class names.
_CIFAR_SIDE = 32
_CIFAR_FILES = {
    "cifar10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta", "labels", "label_names"),
    "cifar100": (["train"], ["test"], "meta", "fine_labels", "fine_label_names"),
}


def read_cifar(set_name: str, folder: Path, split: str) -> PixelArrayDataset:
    """`cifar-10-batches-py` or `cifar-100-python`."""
    train, test, meta, label_key, names_key = _CIFAR_FILES[set_name]
    batches = train if split == "train" else test
    root = _require_located(folder, set_name, meta, *batches)
    contents = [_read_cifar_batch(root / name, label_key) for name in batches]
    names_of_classes = _read_cifar_content(root / meta).get(names_key)
    if not isinstance(names_of_classes, list):
        raise ValueError(f"{root / meta}: no list {names_key}; unpack the original archive again.")
    class_names = [_text(name) for name in names_of_classes]
    labels = np.concatenate([labels for _, labels, _ in contents])
    names = [name for _, _, part in contents for name in part]
    pixels = np.concatenate([pixels for pixels, _, _ in contents])
    description = DatasetDescription(
        name=set_name,
        source=str(root),
        split=split,
        num_images=len(labels),
        num_classes=len(class_names),
        split_rule=f"files {', '.join(batches)}",
        fingerprint=fingerprint(names, class_names, labels),
    )
    return PixelArrayDataset(pixels, names, labels.tolist(), class_names, description)


def _read_cifar_content(path: Path) -> dict[str, Any]:
    """A pickle's dictionary; keys that Python 2 wrote as bytes become text."""
    content = load_arrays(path.read_bytes(), str(path), "Unpack the original archive again.")
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it holds {type(content).__name__}, not a dict; unpack the original archive again.")
    return {_text(key): value for key, value in content.items()}


def _read_cifar_batch(path: Path, label_key: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], list[str]]:
    content = _read_cifar_content(path)
    array, labels = content.get("data"), content.get(label_key)
    data = array.values if isinstance(array, PickledArray) else None
    if data is None or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * _CIFAR_SIDE**2:
        raise ValueError(
            f"{path}: data is no array of {3 * _CIFAR_SIDE**2} bytes an image; unpack the original archive again."
        )
    if not isinstance(labels, list) or len(labels) != len(data) or not all(isinstance(each, int) for each in labels):
        raise ValueError(f"{path}: {label_key} is not one whole number an image; unpack the archive again.")
    names = content.get("filenames") or [f"{path.name}/{index}" for index in range(len(data))]
    pixels = np.ascontiguousarray(data.reshape(-1, 3, _CIFAR_SIDE, _CIFAR_SIDE).transpose(0, 2, 3, 1))
    return pixels, np.array(labels, dtype=np.int64), [_text(name) for name in names]


def _text(name: Any) -> str:
    return name.decode("latin1") if isinstance(name, bytes) else str(name)


def read_fashion_mnist(folder: Path, split: str) -> PixelArrayDataset:
    """The four idx files, packed or not."""
    root = _require_located(folder, "Fashion-MNIST", *(f"{part}-images?idx3-ubyte*" for part in ("train", "t10k")))
    return read_idx_folder(root, split, class_names=read_class_list("fashion_mnist"))


# The lists' own numbers of several classes an image: present, only difficult instances, absent.
_VOC_MARKS = {"1": 1.0, "0": -1.0, "-1": 0.0}


def read_voc2007(folder: Path, split: str) -> _OriginalSplit:
    """`VOC2007/JPEGImages` with `ImageSets/Main/<class>_trainval.txt` and `<class>_test.txt`, or with `Annotations`.

    Training is trainval. Rows are 1 for a class that is there, 0 for one that is not, -1 for one with difficult
    instances only, which neither loss nor metric counts.
    """
    part = _read_trainval(split)
    main = f"ImageSets/Main/{part}.txt"
    root = _require_located(folder, f"PASCAL VOC 2007 ({part})", main, "JPEGImages")
    names = [line.split()[0] for line in _read_lines(root / main)]
    class_names = read_class_list("voc2007")
    lists = [root / "ImageSets" / "Main" / f"{name}_{part}.txt" for name in class_names]
    if all(path.is_file() for path in lists):
        rows, rule = (
            np.stack([_read_voc_column(path, names) for path in lists], axis=1),
            f"{part} lists of ImageSets/Main",
        )
    else:
        annotations = [root / "Annotations" / f"{name}.xml" for name in names]
        rows = np.stack([_read_voc_annotated(path, class_names) for path in annotations])
        rule = f"{main} and Annotations"
    unlabeled = [-1] * len(names)
    return _OriginalSplit(root / "JPEGImages", [f"{name}.jpg" for name in names], unlabeled, class_names, rule, rows)


def _read_voc_column(path: Path, names: list[str]) -> npt.NDArray[np.float32]:
    """One class of all images."""
    values: dict[str, float] = {}
    for line in _read_lines(path):
        fields = line.split()
        if len(fields) != 2 or fields[1] not in _VOC_MARKS:
            raise ValueError(f"{path}: the line {line!r} is not an image and 1, 0 or -1; unpack the archive again.")
        values[fields[0]] = _VOC_MARKS[fields[1]]
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"{path}: {len(missing)} images of the split are not in it (first {missing[0]!r}).")
    return np.array([values[name] for name in names], dtype=np.float32)


def _read_voc_annotated(path: Path, class_names: tuple[str, ...]) -> npt.NDArray[np.float32]:
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


READERS: dict[str, Callable[[Path, str], _OriginalSplit | ImageDataset]] = {
    "cifar10": partial(read_cifar, "cifar10"),
    "cifar100": partial(read_cifar, "cifar100"),
    "fashion-mnist": read_fashion_mnist,
    "flowers102": read_flowers102,
    "oxford-pets": read_oxford_pets,
    "food101": read_food101,
    "stanford-cars": read_stanford_cars,
    "dtd": read_dtd,
    "fgvc-aircraft": read_fgvc_aircraft,
    "sun397": read_sun397,
    "voc2007": read_voc2007,
}


def read_original(name: str, folder: Path, split: str) -> ImageDataset:
    """The images of a split of a set, out of the folder where its archives were unpacked."""
    found = READERS[name](folder, split)
    return found.dataset(split) if isinstance(found, _OriginalSplit) else found


def _locate(folder: Path, *marks: str) -> Path | None:
    """The folder that an archive unpacked into, by what has to be in it: the given one or one up to two below."""
    level = [folder]
    for _ in range(3):
        for candidate in level:
            if all(any(candidate.glob(mark)) for mark in marks):
                return candidate
        level = [parent / name for parent in level for name in list_subfolders(parent)]
    return None


def _require_located(folder: Path, title: str, *marks: str) -> Path:
    found = _locate(folder, *marks)
    if found is None:
        raise LayoutNotFoundError(
            f"{folder}: {' and '.join(marks)} of {title} were not found there or up to two folders below; unpack the "
            "archives into it."
        )
    return found


def _read_lines(path: Path) -> list[str]:
    """The lines of a list file that are not empty, without the blanks around them."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: it is no text ({error}); unpack the original archive again.") from error
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path}: the list is empty; unpack the original archive again.")
    return lines


def _find_indices(names: Sequence[str], class_names: Sequence[str], path: Path) -> list[int]:
    """Label of each class name."""
    index = {name: number for number, name in enumerate(class_names)}
    if len(index) != len(class_names):
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise ValueError(f"{path}: the class {twice!r} is named twice; unpack the original archive again.")
    strangers = sorted(set(names) - set(index))
    if strangers:
        raise ValueError(
            f"{path}: {len(strangers)} classes are not in the set's list of classes ({', '.join(strangers[:3])}); the "
            "two files are of different sets."
        )
    return [index[name] for name in names]
