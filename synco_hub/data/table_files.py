"""What the files of a local table say of themselves: columns, lists of classes, rows, and cells from a row on."""

from __future__ import annotations

import importlib
import os
import tarfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

# A webdataset's own rule: what stands before the first dot of the file name is the sample.
_KEY_ENDS = "."
_ROWS_A_BATCH = 64


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
            return _read_tar(file)
    except (OSError, ValueError, tarfile.TarError) as error:
        raise ValueError(
            f"{file}: a damaged shard ({type(error).__name__}: {' '.join(str(error).split())}); replace it or take "
            "it out of the folder."
        ) from error
    return None


def _read_tar(file: str) -> int:
    samples, last = 0, None
    with tarfile.open(file) as archive:
        for member in archive:
            folder, name = os.path.split(member.name)
            if not member.isfile() or _KEY_ENDS not in name or name.startswith((_KEY_ENDS, "__")):
                continue
            key = os.path.join(folder, name.split(_KEY_ENDS, 1)[0])
            samples, last = samples + (key != last), key
    return samples


def _raw(library: Any, table: Any, column: str) -> Any:
    """The image column alone, as encoded bytes."""
    features = table.features
    table = table.select_columns([column])
    if features is not None and isinstance(features[column], library.Image):
        table = table.cast_column(column, library.Image(decode=False))
    return table


def _image_column(library: Any, name: str, features: Any, given: str | None) -> str:
    if features is None:
        if given is None:
            raise ValueError(f"{name} does not say which columns it has: name the one of the images, --image-column.")
        return given
    columns = ", ".join(features)
    if given is not None and given not in features:
        raise ValueError(f"{name}: no column {given!r}; give --image-column one of {columns}.")
    found = (
        [given] if given is not None else [key for key, kind in features.items() if isinstance(kind, library.Image)]
    )
    if len(found) != 1:
        count = f"{len(found)} columns" if found else "no column"
        raise ValueError(f"{name}: {count} of images among {columns}; name the right one with --image-column.")
    kind = features[found[0]]
    encoded = isinstance(kind, (library.Image, dict)) or getattr(kind, "dtype", "") in ("binary", "large_binary")
    if not encoded:
        raise ValueError(
            f"{name}: column {found[0]!r} holds {getattr(kind, 'dtype', kind)}, not encoded images; name another one "
            f"of {columns} with --image-column."
        )
    return str(found[0])


def _datasets_library(name: str) -> Any:
    try:
        # Not at the top: the library takes a second to import, and folders and fractals must work without it.
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(f"{name}: streaming needs the `datasets` library; `pip install datasets`.") from error


def _called(dataset: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Turns the many errors of a failed look-up into one line."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"{dataset}: the datasets library cannot open it ({type(error).__name__}: {reason}); check the name, the "
            "connection, that no file is damaged, and for gated data sets the accepted licence and HF_TOKEN."
        ) from error
