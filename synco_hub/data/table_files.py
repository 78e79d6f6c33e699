"""What the files of a local table say of themselves: columns, lists of classes, rows, and cells from a row on."""

from __future__ import annotations

import importlib
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from synco_hub.data.folder_files import METADATA_FILES
from synco_hub.data.folder_splits import SplitKind, find_split_kind, list_split_folders, name_short_split, name_split
from synco_hub.data.local_tables import SAVED, scan_tar

TABLE_FILES = ("*.parquet", "*.arrow", "*.tar")
_ROWS_A_BATCH = 64
# How the `datasets` library knows the split of a file.
_LIBRARY_SPLIT = re.compile(
    r"(?:^|[-._ 0-9/])(?:train|training|validation|valid|dev|val|test|testing|eval|evaluation)(?=[-._ 0-9/])"
)


@dataclass(frozen=True)
class FileClasses:
    """Rows of one file whose numbers mean the classes of that file's own list: `numbers[stored]` is the class."""

    rows: int
    numbers: tuple[int, ...]


def list_table_files(folder: Path) -> dict[str, str]:
    """The tables in a folder by their names in it; nothing where the folder says itself of which splits they are."""
    card = folder / "README.md"
    if (card.is_file() and "data_files" in card.read_text(errors="replace")) or any(
        (folder / name).is_file() for name in SAVED
    ):
        return {}
    files = sorted(file for pattern in TABLE_FILES for file in folder.rglob(pattern))
    names = {file.relative_to(folder).as_posix(): str(file.absolute()) for file in files}
    return {
        name: file
        for name, file in names.items()
        if os.path.basename(file) not in METADATA_FILES and not any(part.startswith(".") for part in name.split("/"))
    }


def is_unlabeled_file(name: str) -> bool:
    """Whether a file or one of its folders is called unlabeled, with the number of its shard or without."""
    return any(find_split_kind(part) is SplitKind.unlabeled for part in _name_parts(name))


def _name_parts(name: str) -> list[str]:
    """The folders of a file and its own name, without the number of its shard."""
    *folders, file = name.split("/")
    return [*folders, re.sub(r"-\d+-of-\d+$", "", os.path.splitext(file)[0])]


def find_file_splits(names: Iterable[str]) -> dict[str, str]:
    """The splits of files, by the words that folders may be called by.

    Nothing where the library knows them all, or they are not some for training and some for tests.
    """
    parts = {name: _name_parts(name) for name in names}
    found = {name: next(filter(None, map(name_split, each)), None) for name, each in parts.items()}
    short = {
        name: found[name] or next(filter(None, map(name_short_split, each)), None) for name, each in parts.items()
    }
    splits = {name: split for name, split in (found if None in short.values() else short).items() if split is not None}
    kinds = {find_split_kind(split) for split in splits.values()}
    return splits if {SplitKind.train, SplitKind.test} <= kinds and not all(map(_LIBRARY_SPLIT.search, splits)) else {}


def join_file_splits(
    own: Mapping[str, str], splits: Mapping[str, str], known: Mapping[str, list[str]]
) -> dict[str, list[str]]:
    """The files of each split: as the `datasets` library knows them, and where it lacks a kind as their names say.

    Args:
        own: Path of each file.
        splits: See `find_file_splits`.
        known: What the library found; where it knows no name of a split, all are training images.
    """
    if not splits or all(list_split_folders(known, kind) for kind in (SplitKind.train, SplitKind.test)):
        return dict(known)
    read = {os.path.realpath(file) for found in known.values() for file in found}
    kinds = tuple({os.path.splitext(file)[1] for file in read})
    same = [name for name, file in own.items() if file.endswith(kinds)]  # it reads files of one kind
    knows_some = read < {os.path.realpath(own[name]) for name in same}
    files = dict(known) if knows_some else {}
    for name, split in splits.items():
        if name in same and (not knows_some or os.path.realpath(own[name]) not in read):
            files[split] = [*files.get(split, ()), own[name]]
    # The library takes the columns of the first for those of all, and classes may be missing elsewhere.
    return dict(sorted(files.items(), key=lambda entry: find_split_kind(entry[0]) is not SplitKind.train))


def is_typed(path: Path) -> bool:
    """Whether a file says of its columns what they are."""
    return path.suffix in (".parquet", ".arrow")


def read_features(file: str) -> Any:
    """The columns of a file; None where it does not say them, or is damaged, which is said when it is read."""
    try:
        return (
            importlib.import_module("datasets").Features.from_arrow_schema(_read_schema(file))
            if is_typed(Path(file))
            else None
        )
    except (OSError, ValueError):
        return None


def _read_schema(file: str) -> Any:
    if file.endswith(".parquet"):
        return importlib.import_module("pyarrow.parquet").read_schema(file)
    arrow = importlib.import_module("pyarrow")
    with arrow.memory_map(file) as stream:
        try:
            return arrow.ipc.open_stream(stream).schema
        except arrow.ArrowInvalid:
            return arrow.ipc.open_file(stream).schema


def count_rows(file: str) -> int:
    if file.endswith(".parquet"):
        return int(importlib.import_module("pyarrow.parquet").read_metadata(file).num_rows)
    return len(importlib.import_module("datasets").Dataset.from_file(file))


def list_class_names(feature: Any) -> list[str] | None:
    """Names of the classes of a column of one class, or of lists of them."""
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    names = getattr(inner, "names", None)
    return None if names is None else list(names)


def with_classes(feature: Any, names: list[str]) -> Any:
    if not names:
        return feature
    library = importlib.import_module("datasets")
    one = library.ClassLabel(names=names)
    return one if isinstance(feature, library.ClassLabel) else library.Sequence(one)


def join_lists(lists: list[tuple[str, ...]]) -> list[str]:
    """One list of all names: the longest where it has all, in sorted order where all are sorted, else as they come."""
    longest, names = max(lists, key=len, default=()), list(dict.fromkeys(chain.from_iterable(lists)))
    if len(longest) == len(names):
        return list(longest)
    return sorted(names) if all(list(each) == sorted(each) for each in lists) else names


def read_parquet_from(file: str, column: str, start: int) -> Iterator[Any]:
    """Cells of a parquet file from a row on; the row groups before it are not read."""
    parquet = importlib.import_module("pyarrow.parquet").ParquetFile(file)
    before, group = 0, 0
    while group < parquet.num_row_groups and before + parquet.metadata.row_group(group).num_rows <= start:
        before += parquet.metadata.row_group(group).num_rows
        group += 1
    groups = range(group, parquet.num_row_groups)
    batches = parquet.iter_batches(batch_size=_ROWS_A_BATCH, row_groups=list(groups), columns=[column])
    cells = (cell for batch in batches for cell in batch.column(0).to_pylist())
    return islice(cells, start - before, None)


def count_samples(file: str) -> int | None:
    """Rows of a parquet file (from its footer) or samples of a tar file (from its headers), no image being read.

    None for what is not on the local disk or another kind of file.
    """
    if not os.path.isfile(file):
        return None
    try:
        if file.endswith(".parquet"):
            # Not at the top: only `datasets` brings it, and folders and fractals must work without.
            metadata = importlib.import_module("pyarrow.parquet").read_metadata(file)
            return int(metadata.num_rows)
        if file.endswith(".tar"):
            return scan_tar(file).samples
    except (OSError, ValueError, tarfile.TarError) as error:
        raise ValueError(
            f"{file}: a damaged shard ({type(error).__name__}: {' '.join(str(error).split())}); replace it or take "
            "it out of the folder."
        ) from error
    return None
