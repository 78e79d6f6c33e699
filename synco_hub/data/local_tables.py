"""Local tables that the `datasets` library does not open by itself.

Those are what its `save_to_disk` wrote, and tar archives whose samples have to be put together, since their images are
of several kinds or their files are not side by side.
"""

from __future__ import annotations

import importlib
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from synco_hub.data.folder_files import is_image_name

# What `save_to_disk` writes: of several splits, of one.
SAVED = ("dataset_dict.json", "state.json")
# A webdataset's own rule: what stands before the first dot of the file name is the sample.
_KEY_ENDS = "."
_CLASS = "cls"
_REMEMBERED = 4096


@dataclass(frozen=True)
class TarFacts:
    """What the headers of a tar archive say.

    Attributes:
        samples: Number of samples.
        image_kinds: What follows the first dot in the names of its images.
        most_images: Images of one sample.
        is_side_by_side: Whether all files of each sample follow each other.
        has_classes: Whether there are `.cls` files.
    """

    samples: int
    image_kinds: frozenset[str]
    most_images: int
    is_side_by_side: bool
    has_classes: bool


def list_tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, str, tarfile.TarInfo]]:
    """Sample, kind and header of every file that is of a sample, in stored order."""
    for member in archive:
        folder, name = os.path.split(member.name)
        if member.isfile() and _KEY_ENDS in name and not name.startswith((_KEY_ENDS, "__")):
            key, kind = name.split(_KEY_ENDS, 1)
            yield os.path.join(folder, key), kind, member


def scan_tar(file: str) -> TarFacts:
    """Reads the headers, once for each state of a file."""
    status = os.stat(file)
    return _scan(file, status.st_size, status.st_mtime_ns)


@lru_cache(_REMEMBERED)
def _scan(file: str, size: int, changed: int) -> TarFacts:
    images: dict[str, int] = {}
    kinds, last, together, has_classes = set(), None, True, False
    with tarfile.open(file) as archive:
        for key, kind, _ in list_tar_members(archive):
            together &= key == last or key not in images
            last = key
            images.setdefault(key, 0)
            has_classes |= kind == _CLASS
            if is_image_name(f"x.{kind}"):
                kinds.add(kind)
                images[key] += 1
    return TarFacts(len(images), frozenset(kinds), max(images.values(), default=0), together, has_classes)


def open_local_splits(
    folder: Path, streaming: bool, list_files: Callable[[], Mapping[Any, Sequence[Any]]]
) -> Mapping[str, Any] | None:
    """The splits of a folder of either kind; None for any other.

    Args:
        folder: Of the table.
        streaming: Give what is read in order, a shard for each archive.
        list_files: Finds the files of each split, as the library does.
    """
    if any((folder / name).is_file() for name in SAVED):
        saved = importlib.import_module("datasets").load_from_disk(str(folder))
        splits = saved if isinstance(saved, Mapping) else {str(saved.split or "train"): saved}
        return {name: table.to_iterable_dataset() for name, table in splits.items()} if streaming else splits
    if not folder.is_dir() or next(folder.rglob("*.tar"), None) is None:
        return None
    files = {str(split): [str(file) for file in found] for split, found in list_files().items()}
    everything = [file for found in files.values() for file in found]
    if not all(file.endswith(".tar") and os.path.isfile(file) for file in everything):
        return None
    try:
        facts = [scan_tar(file) for file in everything]
    except (OSError, tarfile.TarError):
        return None  # a damaged file is said when it is read
    kinds = frozenset().union(*(each.image_kinds for each in facts))
    if all(each.is_side_by_side for each in facts) and (len(kinds) < 2 or _in_every_sample(facts)):
        return None
    if max(each.most_images for each in facts) > 1:
        raise ValueError(
            f"{folder}: its archives hold images of several kinds ({', '.join(sorted(kinds))}), some samples several "
            "of them, so that no kind is the column of images; give each sample one image, or each the same kinds."
        )
    has_classes = any(each.has_classes for each in facts)
    return {split: _open_samples(found, has_classes, streaming) for split, found in files.items()}


def _in_every_sample(facts: Sequence[TarFacts]) -> bool:
    """Whether every sample has all kinds of images, which are then columns."""
    return all(each.most_images == len(each.image_kinds) for each in facts)


def _open_samples(files: Sequence[str], has_classes: bool, streaming: bool) -> Any:
    library = importlib.import_module("datasets")
    columns = {"image": library.Image(decode=False)} | ({_CLASS: library.Value("int64")} if has_classes else {})
    kind = library.IterableDataset if streaming else library.Dataset
    # The times make the library's own copy of a changed file another one.
    given = {"files": list(files), "changed": [os.stat(file).st_mtime_ns for file in files]}
    return kind.from_generator(read_tar_samples, gen_kwargs=given, features=library.Features(columns))


def read_tar_samples(files: Sequence[str], changed: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The samples of archives in the order of their first files: one image, and the class if there is one."""
    for file in files:
        samples: dict[str, dict[str, tarfile.TarInfo]] = {}
        with tarfile.open(file) as archive:
            for key, kind, member in list_tar_members(archive):
                samples.setdefault(key, {})["image" if is_image_name(f"x.{kind}") else kind] = member
            has_classes = any(_CLASS in found for found in samples.values())
            for found in samples.values():
                image = found.get("image")
                row: dict[str, Any] = {"image": None}
                if image is not None:
                    row["image"] = {"bytes": _read(archive, image), "path": image.name}
                if has_classes:
                    row[_CLASS] = int(_read(archive, found[_CLASS])) if _CLASS in found else None
                yield row


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return b"" if stream is None else stream.read()
