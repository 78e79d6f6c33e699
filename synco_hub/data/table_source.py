"""Which table of images, which of its columns, and what a cell holds: for tables by position and for streams alike.

The `datasets` library reads the tables. The images are decoded by this package, so that a damaged one is the same
error as everywhere else in it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.folder_files import has_images
from synco_hub.settings import DatasetChoice

# As `synco-hub data prepare` writes several classes an image: those that are there, and those with instances that are
# too difficult to count.
LABELS_COLUMN = "labels"
DIFFICULT_COLUMN = "difficult"
TABLE_FILES = ("*.parquet", "*.arrow", "*.tar")
_ENCODED = ("binary", "large_binary", "string", "large_string")


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
    """

    cache_dir: str | None = None
    max_images: int | None = None
    usual_image_column: str | None = None
    usual_label_column: str | None = None
    num_classes: int | None = None

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
    """Whether a folder has tables and no image files."""
    return not has_images(folder) and any(next(folder.rglob(pattern), None) for pattern in TABLE_FILES)


def split_names(source: TableSource) -> list[str]:
    """The splits that a table has."""
    names: list[str] = call_datasets(
        source,
        "get_dataset_split_names",
        source.dataset,
        source.config,
        revision=source.revision,
        data_dir=source.data_dir,
    )
    return names


def open_split(source: TableSource, stored_split: str, streaming: bool = False) -> Any:
    """One stored split: a `datasets.Dataset`, or an `IterableDataset` of which nothing is read yet."""
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
    )


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
        raise ValueError(
            f"{source.dataset}: the datasets library cannot load it ({type(error).__name__}: {reason}); check the "
            "name, the connection, that no file is damaged, and for gated data sets the accepted licence and HF_TOKEN."
        ) from error


def find_image_column(table: Any, source: TableSource) -> str:
    """The column of encoded images: as the source names it, or the only one of the library's type."""
    if table.features is None:
        if source.image_column is None:
            raise ValueError(
                f"{source.dataset} does not say which columns it has: name the one of the images, --image-column."
            )
        return source.image_column
    library = import_datasets(source.dataset)
    columns = list(table.features)
    if source.image_column is not None:
        return _present(source, "image", source.image_column, columns)
    if source.usual_image_column is not None and source.usual_image_column in columns:
        return source.usual_image_column
    images = [name for name, feature in table.features.items() if isinstance(feature, library.Image)]
    if len(images) != 1:
        found = f"{len(images)} columns of images" if images else "no column of images"
        raise ValueError(
            f"{source.dataset}: {found} among {', '.join(columns)}; name the right one with --image-column."
        )
    return str(images[0])


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
    library = import_datasets(source.dataset)
    feature = table.features[column]
    dtype = str(getattr(feature, "dtype", type(feature).__name__))
    # An image without the library's mark is a plain struct of the same two fields.
    is_struct = isinstance(feature, Mapping) and {"bytes"} <= set(feature) <= {"bytes", "path"}
    if not (isinstance(feature, library.Image) or dtype in _ENCODED or is_struct):
        raise ValueError(
            f"{source.dataset}: column {column!r} holds {dtype}, not images; name another with --image-column."
        )
    return table.cast_column(column, library.Image(decode=False))


def name_cell(cell: Any, index: int) -> str:
    """How reports name a row: its file name with the row, or the row alone."""
    path = find_cell_path(cell)
    return f"{path} (row {index})" if path else f"row {index}"


def find_cell_path(cell: Any) -> str | None:
    """The file name of a cell, if it has one."""
    return cell.get("path") if isinstance(cell, Mapping) else None


def read_cell_bytes(cell: Any, name: str) -> bytes:
    """The encoded image of a cell: bytes, a path, or a mapping with either; `name` is for the error of any other."""
    stored = cell.get("bytes") or cell.get("path") if isinstance(cell, Mapping) else cell
    if not stored:
        raise UnreadableImageError(name, "the cell is empty")
    if isinstance(stored, bytes):
        return stored
    if not isinstance(stored, str):
        raise UnreadableImageError(name, f"the cell holds {type(stored).__name__}, not an encoded image")
    try:
        return Path(stored).read_bytes()
    except OSError as error:
        raise UnreadableImageError(name, error.strerror or str(error)) from error


def list_cell_paths(chunk: Any) -> list[str | None]:
    """File names of a chunk of cells; the struct's other field, the bytes, is not touched."""
    struct = getattr(chunk, "storage", chunk)
    try:
        paths: list[str | None] = struct.field("path").to_pylist()
    except (AttributeError, KeyError):
        return []
    return paths
