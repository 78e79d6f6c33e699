"""Which columns of a table hold the images and their classes: as given, or by their type and name."""

from collections.abc import Mapping
from typing import Any

from synco_hub.data.hub_source import HubSource, datasets_library

# As `synco-hub data prepare` writes several classes an image: those that are there, and those with instances that are
# too difficult to count.
LABELS_COLUMN = "labels"
DIFFICULT_COLUMN = "difficult"


def image_column_of(table: Any, source: HubSource) -> str:
    """The column of encoded images.

    Args:
        table: Of the `datasets` library, map-style or iterable with known features.
        source: Names it, if the user or the catalog did.

    Raises:
        ValueError: If the named one is not there, or none or several are images.
    """
    library = datasets_library(source.dataset_id)
    columns = list(table.features)
    if source.image_column is not None and not (source.optional_columns and source.image_column not in columns):
        if source.image_column not in columns:
            raise ValueError(_no_column(source, "image", source.image_column, columns))
        return source.image_column
    images = [name for name, feature in table.features.items() if isinstance(feature, library.Image)]
    if len(images) != 1:
        found = f"{len(images)} columns of images" if images else "no column of images"
        raise ValueError(
            f"{source.dataset_id}: {found} among {', '.join(columns)}; name the right one with --image-column."
        )
    return str(images[0])


def label_column_of(table: Any, source: HubSource) -> str | None:
    """The column of classes, None if there is none.

    Args:
        table: As in `image_column_of`.
        source: Names it, if the user or the catalog did.

    Raises:
        ValueError: If the named one is not there, or several hold classes.
    """
    library = datasets_library(source.dataset_id)
    columns = list(table.features)
    if source.label_column is not None and not (source.optional_columns and source.label_column not in columns):
        if source.label_column not in columns:
            raise ValueError(_no_column(source, "label", source.label_column, columns))
        return source.label_column
    classes = [name for name, feature in table.features.items() if isinstance(feature, library.ClassLabel)]
    for usual in ("label", LABELS_COLUMN):
        if usual in columns:
            return usual
    if len(classes) > 1:
        raise ValueError(
            f"{source.dataset_id}: {len(classes)} columns of classes ({', '.join(classes)}); name the right one with "
            "--label-column."
        )
    return classes[0] if classes else "cls" if "cls" in columns else None


def _no_column(source: HubSource, kind: str, given: str, columns: list[str]) -> str:
    return f"{source.dataset_id}: no column {given!r}; give --{kind}-column one of {', '.join(columns)}."


def with_encoded_images(table: Any, column: str, source: HubSource) -> Any:
    """The table with its images as they are stored, not decoded.

    Raises:
        ValueError: If the column holds something else.
    """
    library = datasets_library(source.dataset_id)
    feature = table.features[column]
    dtype = str(getattr(feature, "dtype", type(feature).__name__))
    known = isinstance(feature, library.Image) or dtype in ("binary", "large_binary", "string", "large_string")
    # An image without the library's mark is a plain struct of the same two fields.
    if not known and not (isinstance(feature, Mapping) and {"bytes"} <= set(feature) <= {"bytes", "path"}):
        raise ValueError(
            f"{source.dataset_id}: column {column!r} holds {dtype}, not images; name another with --image-column."
        )
    return table.cast_column(column, library.Image(decode=False))
