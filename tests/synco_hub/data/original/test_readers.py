from pathlib import Path

import numpy as np
import pytest
from data_trees.original import WRITERS, write_original

from synco_hub.data.catalog.row import Layout
from synco_hub.data.catalog.sets import CATALOG
from synco_hub.data.loading import load_dataset
from synco_hub.data.original.readers import READERS
from synco_hub.settings import DatasetChoice


def test_every_set_of_lists_has_a_reader_and_every_set_with_files_a_tree():
    assert set(READERS) == {name for name, row in CATALOG.items() if row.layout is Layout.lists}
    without_files = {"imagenet-w", "imagenet-1pct", "imagenet-10pct", "fractals"}
    assert set(WRITERS) == set(CATALOG) - without_files


@pytest.mark.parametrize("name", WRITERS)
def test_a_tree_as_the_archives_unpack(name: str, tmp_path: Path):
    tree, row = write_original(name, tmp_path / "files", seed=5), CATALOG[name]
    for split in row.splits:
        images = load_dataset(DatasetChoice(name, data_dir=str(tree.root)), split)
        assert (images.num_classes, images.description.name, images.description.split) == (
            row.num_classes,
            name,
            split,
        )
        found = images.labels if images.multi_hot is None else images.multi_hot
        assert np.asarray(found).tolist() == tree.labels[split]
        for index, grey in enumerate(tree.greys.get(split, [])):
            assert abs(images.load_image(index).getpixel((3, 3))[0] - grey) <= 2, images.name(index)


@pytest.mark.parametrize("name", sorted(READERS))
def test_train_and_test_have_other_images_and_fingerprints(name: str, tmp_path: Path):
    write_original(name, tmp_path, seed=6)
    train, test = (load_dataset(DatasetChoice(name, data_dir=str(tmp_path)), split) for split in ("train", "test"))
    if name != "stanford-cars":  # its two folders number their files alike
        assert not set(train.file_names()) & set(test.file_names())
    assert train.description.fingerprint != test.description.fingerprint
    assert train.class_names == test.class_names


@pytest.mark.parametrize("name", sorted(READERS))
def test_an_empty_folder_says_what_belongs_there(name: str, tmp_path: Path):
    with pytest.raises(ValueError, match=f"{name} is read as its archives unpack .*parquet files"):
        load_dataset(DatasetChoice(name, data_dir=str(tmp_path)), "train")
