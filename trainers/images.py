"""Images and streams by a `DatasetChoice`."""

from __future__ import annotations

from synco_hub import data
from synco_hub.data import ImageDataset, StreamSource
from synco_hub.data.hub_source import HubSource
from synco_hub.settings import DatasetChoice


def load_dataset(
    choice: DatasetChoice, split: str, *, image_size: int | None = None, max_images: int | None = None
) -> ImageDataset:
    """One split of the chosen data set, by position."""
    return data.load_dataset(
        choice.dataset,
        split,
        seed=choice.split_seed,
        image_size=image_size,
        data_dir=choice.data_dir,
        image_column=choice.image_column,
        label_column=choice.label_column,
        config=choice.config,
        revision=choice.revision,
        dataset_id=choice.dataset_id,
        max_images=max_images,
    )


def open_stream(choice: DatasetChoice) -> StreamSource:
    """The training split of the chosen data set as a stream."""
    source = HubSource(choice.dataset, choice.config, choice.revision, choice.data_dir, choice.image_column)
    return data.open_stream(source, "train", choice.dataset_id)
