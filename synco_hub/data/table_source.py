"""Which table of images, which of its columns, and what a cell holds: for tables by position and for streams alike.

The `datasets` library reads the tables. The images are decoded by this package, so that a damaged one is the same
error as everywhere else in it.
"""

from __future__ import annotations

import glob
import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

from synco_hub.data.folder_files import METADATA_FILES, has_images
from synco_hub.data.local_tables import open_local_splits
from synco_hub.data.table_files import (
    TABLE_FILES,
    FileClasses,
    count_rows,
    find_file_splits,
    is_typed,
    is_unlabeled_file,
    join_file_splits,
    join_lists,
    list_class_names,
    list_table_files,
    read_features,
    with_classes,
)
from synco_hub.settings import DatasetChoice

# As `synco-hub data prepare` writes several classes an image: those that are there, and those with instances that are
# too difficult to count.
LABELS_COLUMN = "labels"
DIFFICULT_COLUMN = "difficult"
_BINARY, _TEXT = ("binary", "large_binary", "binary_view"), ("string", "large_string", "string_view")
_MARKED, _BYTES, _PATHS = "image", "bytes", "paths"
# Where no column is marked as one of images.
_USUAL_IMAGES = ("image", "img")
_USUAL_PATHS = ("image_path", "file_name", "filename", "file_path", "filepath", "path", "file")


@dataclass(frozen=True)
class TableSource(DatasetChoice):
    """A choice on its way to one table: in the end `dataset` is `namespace/name` on the Hub, or a local folder.

    Attributes:
        cache_dir: Where downloads are kept; None takes the `datasets` library's own folder.
        max_images: Read so many rows of a split at most, spread over it, and download no more than is read; None
            takes all.
        usual_image_column: Taken where the table has it and `image_column` names none; the catalog's.
        usual_label_column: As that, for the classes.
        num_classes: Number of classes where an image can have several, if the table has no names for them.
        library_splits: Leave it to the library which files are of which split, as version 0.1 did.
    """

    cache_dir: str | None = None
    max_images: int | None = None
    usual_image_column: str | None = None
    usual_label_column: str | None = None
    num_classes: int | None = None
    library_splits: bool = False

    @classmethod
    def of(cls, choice: DatasetChoice, **more: Any) -> Self:
        """The choice, with what the caller adds."""
        known = {field.name for field in fields(cls)}
        given = {field.name: getattr(choice, field.name) for field in fields(choice) if field.name in known}
        return cls(**(given | more))


def is_hub_id(name: str) -> bool:
    """Whether a name has a namespace: without one it is a slip of the pen and must not wait for the network."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/")


def has_tables(folder: Path) -> bool:
    """Whether a folder has tables and no image files, other than nameless ones that a table may point to."""
    if has_images(folder, by_name=True):
        return False
    found = {path.name for pattern in TABLE_FILES for path in folder.rglob(pattern)}
    return bool(found) and (not found <= set(METADATA_FILES) or not has_images(folder))


def split_names(source: TableSource) -> list[str]:
    """The splits that a table has."""
    saved = _open_local(source)
    if saved is not None:
        return list(saved)
    names: list[str] = call_datasets(
        source,
        "get_dataset_split_names",
        source.dataset,
        source.config,
        revision=source.revision,
        data_dir=source.data_dir,
        **_choose_files(source),
    )
    return names


def open_split(source: TableSource, stored_split: str, streaming: bool = False) -> Any:
    """One stored split: a `datasets.Dataset`, or an `IterableDataset` of which nothing is read yet."""
    saved = _open_local(source, streaming)
    if saved is not None:
        return _choose_local(source, saved, stored_split)
    return _load(source, stored_split, streaming)


def open_every_split(source: TableSource) -> list[Any]:
    """All splits by position, which the library makes ready together in any case."""
    saved = _open_local(source)
    return list((_load(source, None) if saved is None else saved).values())


def open_builder(source: TableSource) -> Any:
    """What the library knows of a table before it reads it: files, splits, columns."""
    return _open_builder(source, _join_class_lists(source)[0])


def class_lists_differ(source: TableSource) -> bool:
    """Whether the numbers of different files of a table mean different classes."""
    return _join_class_lists(source)[0] is not None


def open_streams(source: TableSource, builder: Any, stored: Sequence[str]) -> list[Any]:
    """Stored splits to read in order, a shard for each file, also of what the library saved."""
    saved = None if next(Path(source.dataset).glob("*.json"), None) else _open_local(source, streaming=True)
    if saved is not None:
        return [_choose_local(source, saved, split) for split in stored]
    return [call_datasets(source, builder.as_streaming_dataset, split=split) for split in stored]


def list_file_classes(source: TableSource, stored_split: str, column: str) -> list[FileClasses]:
    """What the numbers of each file of a split mean, where files of one table name their classes differently."""
    features, lists = _join_class_lists(source)
    names = list_class_names(features[column]) if features is not None and column in features else None
    if names is None:
        return []
    files = {str(split): list(map(str, found)) for split, found in _open_builder(source).config.data_files.items()}
    unknown = [split for split in stored_split.split("+") if split not in files]
    if unknown:
        raise ValueError(
            f"{source.dataset}: its files name the classes of {column!r} differently, so that splits can be named as "
            f"a whole only; {unknown[0]!r} is none of {', '.join(files)}."
        )
    number = {name: index for index, name in enumerate(names)}
    return [
        FileClasses(count_rows(file), tuple(number[name] for name in lists[file].get(column, names)))
        for split in stored_split.split("+")
        for file in files[split]
    ]


def _load(source: TableSource, stored_split: str | None, streaming: bool = False) -> Any:
    features, _ = _join_class_lists(source)
    return call_datasets(
        source,
        "load_dataset",
        source.dataset,
        name=source.config,
        split=stored_split,
        revision=source.revision,
        data_dir=source.data_dir,
        cache_dir=source.cache_dir,
        streaming=streaming,
        **_choose_files(source),
        **({} if features is None else {"features": features}),
    )


def _open_builder(source: TableSource, features: Any = None) -> Any:
    return call_datasets(
        source,
        "load_dataset_builder",
        source.dataset,
        name=source.config,
        revision=source.revision,
        data_dir=source.data_dir,
        cache_dir=source.cache_dir,
        **_choose_files(source),
        **({} if features is None else {"features": features}),
    )


def list_unread_files(source: TableSource) -> list[str]:
    """Files of a local table that are of none of its splits."""
    files = _list_own_files(source)
    read = _list_read_files(_open_builder(source)) if len(files) > 1 else {}
    known = {os.path.realpath(file) for found in read.values() for file in found}
    kinds = {os.path.splitext(file)[1] for file in known}
    return [
        name for name, file in files.items() if os.path.realpath(file) not in known and file.endswith(tuple(kinds))
    ]


def _choose_files(source: TableSource) -> dict[str, Any]:
    """Files of a local table whose splits the library does not know, in place of what it takes for them.

    Those that are there for learning without labels it reads below a folder `data`, or where it knows of no split at
    all, and else leaves them out, unsaid. `Train` beside `Eval`, or `treino` beside `teste`, it takes for one split.
    """
    own = _list_own_files(source)
    unlabeled = [file for name, file in own.items() if is_unlabeled_file(name)]
    splits = {} if source.library_splits else find_file_splits(own)
    if not unlabeled and not splits:
        return {}
    known = _list_read_files(call_datasets(source, "load_dataset_builder", source.dataset, cache_dir=source.cache_dir))
    files = join_file_splits(own, splits, known)
    read = {os.path.realpath(file) for found in files.values() for file in found}
    more = [file for file in unlabeled if os.path.realpath(file) not in read]
    if more:
        files = {**files, "unlabeled": [*files.get("unlabeled", ()), *more]}
    elif files == known:
        return {}
    return {"data_files": {split: list(map(glob.escape, found)) for split, found in files.items()}}


def _list_own_files(source: TableSource) -> dict[str, str]:
    """See `list_table_files`; nothing where the source says what is read of the folder."""
    folder = Path(source.dataset).expanduser()
    chosen = source.config is not None or source.data_dir is not None
    return {} if chosen or not folder.is_dir() else list_table_files(folder)


def _list_read_files(builder: Any) -> dict[str, list[str]]:
    return {str(split): list(map(str, found)) for split, found in (builder.config.data_files or {}).items()}


def _join_class_lists(source: TableSource) -> tuple[Any, dict[str, dict[str, tuple[str, ...]]]]:
    """Columns with one list of classes each, and the lists of every file; None where the files agree.

    The library takes the columns of the first file for those of all, so that the numbers of another file with another
    list would silently mean other classes. Files on the Hub are not looked into.
    """
    folder = Path(source.dataset).expanduser()
    if source.config is not None or not folder.is_dir() or not any(map(is_typed, folder.rglob("*"))):
        return None, {}
    found = _open_builder(source).config.data_files or {}
    features = {str(file): read_features(str(file)) for files in found.values() for file in files}
    if not all(features.values()):
        return None, {}
    lists = {
        file: {name: tuple(names) for name, kind in columns.items() if (names := list_class_names(kind)) is not None}
        for file, columns in features.items()
    }
    if all(each == next(iter(lists.values())) for each in lists.values()):
        return None, {}
    joined = next(iter(features.values())).copy()
    for name in joined:
        joined[name] = with_classes(joined[name], join_lists([each[name] for each in lists.values() if name in each]))
    return joined, lists


def _open_local(source: TableSource, streaming: bool = False) -> Mapping[str, Any] | None:
    """The splits of a local table that the library does not open by itself; None for any other."""
    folder = Path(source.dataset).expanduser()
    if not folder.is_dir() or source.config is not None:
        return None
    return open_local_splits(folder, streaming, lambda: _open_builder(source).config.data_files or {})


def _choose_local(source: TableSource, saved: Mapping[str, Any], stored_split: str) -> Any:
    wanted = stored_split.split("+")
    unknown = [name for name in wanted if name not in saved]
    if unknown:
        raise ValueError(f"{source.dataset}: it has the splits {', '.join(saved)}, not {unknown[0]!r}.")
    tables = [saved[name] for name in wanted]
    return tables[0] if len(tables) == 1 else import_datasets(source.dataset).concatenate_datasets(tables)


def import_datasets(dataset: str) -> Any:
    """The library; `dataset` is what needs it, for the message where it is not installed."""
    try:
        # Not at the top: the library takes a second to import, and folders and fractals must work without it.
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"{dataset}: reading Hub data sets and parquet files needs the `datasets` library; install it with "
            "`pip install datasets`, or give a folder of image files."
        ) from error


def call_datasets(source: TableSource, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls the library; its many errors of a failed download become one line."""
    library = import_datasets(source.dataset)
    try:
        return (getattr(library, function) if isinstance(function, str) else function)(*args, **kwargs)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        remedy = (
            "check that no file is damaged and that all files have the same columns."
            if os.path.isdir(os.path.expanduser(source.dataset))
            else "check the name, the connection, and for gated data sets the accepted licence and HF_TOKEN."
        )
        raise ValueError(
            f"{source.dataset}: the datasets library cannot load it ({type(error).__name__}: {reason}); {remedy}"
        ) from error


def find_image_column(table: Any, source: TableSource) -> str:
    """The column of images: as the source names it, else the only one by type, by name, or by what it holds."""
    if table.features is None:
        if source.image_column is None:
            raise ValueError(
                f"{source.dataset} does not say which columns it has: name the one of the images, --image-column."
            )
        return source.image_column
    columns = list(table.features)
    if source.image_column is not None:
        return _present(source, "image", source.image_column, columns)
    if source.usual_image_column is not None and source.usual_image_column in columns:
        return source.usual_image_column
    kinds = {name: _image_kind(source, feature) for name, feature in table.features.items()}
    images = [name for name, kind in kinds.items() if kind == _MARKED]
    if not images:
        images = [name for name in _USUAL_IMAGES if kinds.get(name)][:1] or [
            name for name, kind in kinds.items() if kind == _BYTES
        ]
    if not images:
        images = [name for name in _USUAL_PATHS if kinds.get(name) == _PATHS]
    if len(images) != 1:
        found = f"{len(images)} columns of images" if images else "no column of images"
        raise ValueError(
            f"{source.dataset}: {found} among {', '.join(columns)}; name the right one with --image-column."
        )
    return str(images[0])


def _image_kind(source: TableSource, feature: Any) -> str | None:
    """How a column can hold images: marked as such, as bytes, or as paths of files; None for none of these."""
    dtype = str(getattr(feature, "dtype", ""))
    if isinstance(feature, import_datasets(source.dataset).Image):
        return _MARKED
    if isinstance(feature, Mapping):
        return _BYTES if "bytes" in feature else _PATHS if "path" in feature else None
    return _BYTES if dtype in _BINARY else _PATHS if dtype in _TEXT else None


def label_column_of(table: Any, source: TableSource) -> str | None:
    """The column of classes: as the source names it, else by its usual name or type; None if there is none."""
    library = import_datasets(source.dataset)
    columns = list(table.features)
    if source.label_column is not None:
        return _present(source, "label", source.label_column, columns)
    if source.usual_label_column is not None and source.usual_label_column in columns:
        return source.usual_label_column
    classes = [name for name, feature in table.features.items() if isinstance(feature, library.ClassLabel)]
    for usual in ("label", LABELS_COLUMN):
        if usual in columns:
            return usual
    if len(classes) > 1:
        raise ValueError(
            f"{source.dataset}: {len(classes)} columns of classes ({', '.join(classes)}); name the right one with "
            "--label-column."
        )
    return classes[0] if classes else "cls" if "cls" in columns else None


def _present(source: TableSource, kind: str, given: str, columns: list[str]) -> str:
    if given not in columns:
        raise ValueError(f"{source.dataset}: no column {given!r}; give --{kind}-column one of {', '.join(columns)}.")
    return given


def keep_images_encoded(table: Any, column: str, source: TableSource) -> Any:
    """The table with its images as they are stored, not decoded; refuses a column of something else."""
    if table.features is None:
        return table
    feature = table.features[column]
    kind = _image_kind(source, feature)
    if kind is None:
        dtype = str(getattr(feature, "dtype", type(feature).__name__))
        raise ValueError(
            f"{source.dataset}: column {column!r} holds {dtype}, not images; name another with --image-column."
        )
    plain = str(getattr(feature, "dtype", "")) in ("binary", "large_binary", "string")
    fields = set(feature) if isinstance(feature, Mapping) else set()
    # What the library cannot take for an image stays as it is: `read_cell_bytes` knows it too.
    if kind == _MARKED or plain or {"bytes"} <= fields <= {"bytes", "path"}:
        return table.cast_column(column, import_datasets(source.dataset).Image(decode=False))
    return table


def list_row_folders(source: TableSource, stored_split: str, num_rows: int) -> list[tuple[int, str]]:
    """Where the files of a local split lie: (row behind the last one, folder), in the order of the rows."""
    if not Path(source.dataset).expanduser().is_dir() or _open_local(source) is not None:
        return []
    found = {str(split): files for split, files in (_open_builder(source).config.data_files or {}).items()}
    files = [str(file) for split in stored_split.split("+") for file in found.get(split, ())]
    folders = list(dict.fromkeys(map(os.path.dirname, files)))
    if len(folders) < 2:
        return [(num_rows, folder) for folder in folders]
    if not all(map(is_typed, map(Path, files))):
        return [(num_rows, folders[0])]
    ends = list(accumulate(count_rows(file) for file in files))
    whole = ends[-1] == num_rows
    return list(zip(ends, map(os.path.dirname, files), strict=True)) if whole else [(num_rows, folders[0])]
