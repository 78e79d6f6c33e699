"""Which table of images, and the `datasets` library that reads it."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class HubSource:
    """Which table.

    Attributes:
        dataset_id: `namespace/name` on the Hub, or a local folder.
        config: Configuration of the data set; None takes its only one.
        revision: Commit, branch or tag on the Hub.
        data_dir: Folder inside the repository.
        image_column: None takes the only column of images.
        label_column: None takes the only column of classes, or the one named `label` or `labels`.
        cache_dir: Where downloads are kept; None takes the `datasets` library's own folder.
        optional_columns: The columns above are taken where the table has them, else found by their type.
        num_classes: Number of classes where an image can have several, if the table has no names for them.
        max_images: Read so many rows of a split at most, spread over it, and download no more than is read; None
            takes all.
    """

    dataset_id: str
    config: str | None = None
    revision: str | None = None
    data_dir: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    cache_dir: str | None = None
    optional_columns: bool = False
    num_classes: int | None = None
    max_images: int | None = None


def split_names(source: HubSource) -> list[str]:
    """The splits that a table has.

    Raises:
        ImportError: If the `datasets` library is not installed.
        ValueError: If the data set cannot be found.
    """
    names: list[str] = called(
        source,
        datasets_library(source.dataset_id).get_dataset_split_names,
        source.dataset_id,
        source.config,
        revision=source.revision,
        data_dir=source.data_dir,
    )
    return names


def opened_split(source: HubSource, stored_split: str, streaming: bool = False) -> Any:
    """One stored split: a `datasets.Dataset`, or an `IterableDataset` of which nothing is read yet.

    Raises:
        ImportError: If the `datasets` library is not installed.
        ValueError: If it cannot be loaded.
    """
    return called(
        source,
        datasets_library(source.dataset_id).load_dataset,
        source.dataset_id,
        name=source.config,
        split=stored_split,
        revision=source.revision,
        data_dir=source.data_dir,
        cache_dir=source.cache_dir,
        streaming=streaming,
    )


def datasets_library(dataset_id: str) -> Any:
    """The library.

    Args:
        dataset_id: What needs it, for the message.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        # Not at the top: the library takes a second to import, and folders and fractals must work without it.
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError(
            f"{dataset_id}: reading Hub data sets and parquet files needs the `datasets` library; install it with "
            "`pip install datasets`, or give a folder of image files."
        ) from error


def called(source: HubSource, function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a function of the library returns; its many errors of a failed download become one line.

    Raises:
        ValueError: In place of any error, naming the data set and what to check.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(
            f"{source.dataset_id}: the datasets library cannot load it ({type(error).__name__}: {reason}); check the "
            "name, the connection, and for gated data sets the accepted licence and HF_TOKEN."
        ) from error
