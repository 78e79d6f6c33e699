from pathlib import Path

import numpy as np
import pytest
from data_trees.original import write_original

from synco_hub.data.original.matlab import read_flowers102, read_stanford_cars

scipy_io = pytest.importorskip("scipy.io")


def test_flowers_train_on_both_halves_and_count_from_one(tmp_path: Path):
    write_original("flowers102", tmp_path, seed=3)
    sets, labels = (scipy_io.loadmat(tmp_path / name, squeeze_me=True) for name in ("setid.mat", "imagelabels.mat"))
    for split, ids in (("train", [*sets["trnid"], *sets["valid"]]), ("test", sets["tstid"])):
        found = read_flowers102(tmp_path, split)
        assert list(found.names) == [f"image_{number:05d}.jpg" for number in ids]
        assert list(found.labels) == [int(labels["labels"][number - 1]) - 1 for number in ids]
    assert found.class_names[76] == "passion flower"


def test_flowers_of_two_sets(tmp_path: Path):
    write_original("flowers102", tmp_path)
    scipy_io.savemat(tmp_path / "imagelabels.mat", {"labels": np.ones((1, 3), dtype=np.uint8)})
    with pytest.raises(ValueError, match=r"imagelabels\.mat has 3; the two files are of different sets"):
        read_flowers102(tmp_path, "train")
    scipy_io.savemat(tmp_path / "setid.mat", {"trnid": "text"})
    with pytest.raises(ValueError, match="no numbers named trnid"):
        read_flowers102(tmp_path, "train")


def test_cars_need_the_labels_of_the_test_images(tmp_path: Path):
    tree = write_original("stanford-cars", tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").rename(tmp_path / "devkit/cars_test_annos_withlabels.mat")
    assert list(read_stanford_cars(tmp_path, "test").labels) == tree.labels["test"]
    (tmp_path / "devkit/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(ValueError, match="the other files have no test labels"):
        read_stanford_cars(tmp_path, "test")
    rows = np.empty((1, 1), dtype=[("fname", object)])
    rows[0, 0] = ("00001.jpg",)
    scipy_io.savemat(tmp_path / "devkit/cars_test_annos_withlabels.mat", {"annotations": rows})
    with pytest.raises(ValueError, match="no annotations with classes"):
        read_stanford_cars(tmp_path, "test")
