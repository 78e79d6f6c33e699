"""The four files of MNIST and what is stored like it: Fashion-MNIST, KMNIST, EMNIST; packed by gzip or not.

An idx file is a head (two zero bytes, the type of its numbers, how many dimensions, their sizes as big-endian integers
of four bytes) and the numbers. Pictures are bytes in three dimensions, classes bytes in one.
Source: http://yann.lecun.com/exdb/mnist/, "The IDX file format".
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from synco_hub.data.image_dataset import DatasetDescription, PixelArrayDataset, fingerprint
from synco_hub.errors import suggest

# `train-images-idx3-ubyte.gz`, `t10k-labels.idx1-ubyte`, `emnist-letters-test-images-idx3-ubyte`.
_NAME = re.compile(r"(?:(?P<set>.+?)-)?(?P<split>train|t10k|test)-(?P<kind>images|labels)[.-]idx\d-\w+?(?:\.gz)?")
_PACKED = ".gz"
_TYPES = {0x08: "bytes", 0x09: "signed bytes", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32", 0x0E: "float64"}
_BYTES = 0x08
_BLOCK = 1 << 20


def find_idx_files(folder: Path) -> dict[str, dict[tuple[str, str], Path]]:
    """Files of a folder, or of `raw` in it, where torchvision has them: set, then split and kind, to the file.

    The set is what stands before the split in the name, such as `emnist-letters`; mostly nothing.
    """
    for place in (folder, folder / "raw"):
        found: dict[str, dict[tuple[str, str], Path]] = {}
        # An unpacked file goes before the packed one beside it.
        files = [file for file in place.iterdir() if _NAME.fullmatch(file.name)] if place.is_dir() else []
        for file in sorted(files, reverse=True):
            if named := _NAME.fullmatch(file.name):
                split = "train" if named["split"] == "train" else "test"
                found.setdefault(named["set"] or "", {})[split, named["kind"]] = file
        if any(("train", "images") in files or ("test", "images") in files for files in found.values()):
            return found
    return {}


def read_idx_folder(
    folder: Path, split: str, chosen: str | None = None, class_names: Sequence[str] | None = None
) -> PixelArrayDataset:
    """One split of the set in a folder.

    Args:
        folder: Holds the four files.
        split: `train` or `test`.
        chosen: Which of several sets, by the name that their files begin with or its end: `letters`.
        class_names: Of the labels 0, 1, …; left out, they are the labels that occur in either split, or the characters
            of EMNIST's `mapping.txt`.
    """
    if split not in ("train", "test"):
        raise ValueError(f"{folder}: split {split!r} of idx files: give train or test.")
    name, files = _choose_set(folder, chosen)
    pixels, stored_labels = _read_split(folder, files, split)
    labels = stored_labels.astype(np.int64)
    names = list(class_names or ())
    if class_names is None:
        other = "test" if split == "train" else "train"
        stored = np.union1d(labels, _read_labels(files[other, "labels"]) if (other, "labels") in files else labels)
        characters = _read_characters(next(iter(files.values())).parent / f"{name}-mapping.txt")
        names = [characters.get(label, str(label)) for label in stored.tolist()]
        labels = np.searchsorted(stored, labels).astype(np.int64)
    elif len(labels) and labels.max() >= len(names):
        raise ValueError(
            f"{files[split, 'labels']}: label {labels.max()}, where there are {len(names)} classes: the files are of "
            "another set."
        )
    file = files[split, "images"]
    begin = file.name.removesuffix(_PACKED)
    description = DatasetDescription(
        name=folder.resolve().name,
        source=str(file.parent),
        split=split,
        num_images=len(labels),
        num_classes=len(names),
        split_rule=f"{begin}, pictures as they are stored",
        fingerprint=fingerprint(pixels.tobytes(), names, labels),
    )
    image_names = [f"{begin}/{index:06d}" for index in range(len(labels))]
    return PixelArrayDataset(pixels, image_names, labels.tolist(), names, description)


def _choose_set(folder: Path, chosen: str | None) -> tuple[str, dict[tuple[str, str], Path]]:
    sets = find_idx_files(folder)
    meant = [name for name in sets if chosen is None or chosen in (name, name.rpartition("-")[2])]
    if len(meant) == 1:
        return meant[0], sets[meant[0]]
    known = ", ".join(sorted(filter(None, sets))) or "none with a name of its own"
    problem = "several sets of idx files" if chosen is None else f"no set {chosen!r} of idx files"
    near = "" if chosen is None else suggest(chosen, sets)
    raise ValueError(f"{folder}: {problem} ({known}): name one with --config.{near}")


def _read_split(
    folder: Path, files: dict[tuple[str, str], Path], split: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    for kind in ("images", "labels"):
        if (split, kind) not in files:
            there = ", ".join(sorted(file.name for file in files.values()))
            raise ValueError(f"{folder}: no {kind} of the {split} split beside {there}: put all four files there.")
    images, classes = files[split, "images"], files[split, "labels"]
    pixels, labels = read_idx(images, 3), _read_labels(classes)
    if len(pixels) != len(labels):
        raise ValueError(
            f"{classes}: {len(labels)} labels, where {images.name} has {len(pixels)} pictures: the two files do not "
            "belong together, get them again."
        )
    if not pixels.size:
        raise ValueError(f"{images}: it holds no pictures: get it again.")
    return pixels, labels


def _read_labels(file: Path) -> npt.NDArray[np.uint8]:
    return read_idx(file, 1)


def read_idx(file: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The bytes of an idx file with so many dimensions; anything else is one clear ValueError."""
    what = "pictures" if dimensions == 3 else "labels"
    try:
        with gzip.open(file) if file.name.endswith(_PACKED) else file.open("rb") as stream:
            head = stream.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES:
                packed = " (it is packed by gzip: name it .gz)" if head[:2] == b"\x1f\x8b" else ""
                raise ValueError(f"{file}: it is no idx file{packed}: get it again.")
            if head[2] != _BYTES or head[3] != dimensions:
                raise ValueError(
                    f"{file}: it holds {_TYPES[head[2]]} in {head[3]} dimensions, but {what} are bytes in "
                    f"{dimensions}: give the files of MNIST's family."
                )
            sizes = stream.read(4 * dimensions)
            if len(sizes) < 4 * dimensions:
                raise ValueError(f"{file}: it ends within its head: get it again.")
            shape = struct.unpack(f">{dimensions}I", sizes)
            due = int(np.prod(shape, dtype=object))
            # By blocks, since a damaged head can ask for more than any memory has.
            content = bytearray()
            while len(content) <= due and (block := stream.read(_BLOCK)):
                content += block
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file}: it cannot be read ({' '.join(str(error).split())}): get it again.") from error
    if len(content) != due:
        more = "more" if len(content) > due else "less"
        raise ValueError(
            f"{file}: its head says {' × '.join(map(str, shape))} {what}, and it holds {more} than that: get it again."
        )
    return np.frombuffer(bytes(content), dtype=np.uint8).reshape(shape)


def _read_characters(file: Path) -> dict[int, str]:
    """EMNIST's list of what a label stands for: the label and one or two codes of characters a line."""
    lines = file.read_text(encoding="ascii", errors="replace").splitlines() if file.is_file() else []
    fields = [line.split() for line in lines if line.strip()]
    if not all(len(each) > 1 and all(one.isdecimal() and int(one) < 256 for one in each) for each in fields):
        raise ValueError(f"{file}: a line is not a label and codes of its characters: get it again.")
    return {int(label): "".join(chr(int(code)) for code in codes) for label, *codes in fields}
