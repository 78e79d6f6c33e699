""""""

from dataclasses import replace

import numpy as np
import pytest

from synco_hub.data import load_dataset
from synco_hub.data.low_shot_lists import LINES
from synco_hub.evaluation.low_shot import drawn_subset, listed_subset, low_shot_subset


@pytest.fixture
def images(tmp_path):
    name = "fractals:num_classes=3,train_images_per_class=10,test_images_per_class=1"
    return load_dataset(name, "train", image_size=16, cache_dir=tmp_path)


def test_each_class_gives_its_share_and_the_seed_decides(images):
    subset = drawn_subset(images, 0.2, seed=1)
    assert np.bincount(subset.labels).tolist() == [2, 2, 2]
    assert np.array_equal(subset.indices, drawn_subset(images, 0.2, seed=1).indices)
    assert not np.array_equal(subset.indices, drawn_subset(images, 0.2, seed=2).indices)
    assert len(drawn_subset(images, 0.001, seed=1)) == 3
    assert subset.description.fingerprint != images.description.fingerprint
    assert "0.2 of each class drawn with seed 1, 6 of 30 images" in subset.description.split_rule
    for position, index in enumerate(subset.indices):
        assert subset.name(position) == images.name(int(index))
        assert subset.load_image(position).tobytes() == images.load_image(int(index)).tobytes()


def test_bad_fraction(images):
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match="is not in"):
            drawn_subset(images, fraction, seed=0)


def test_a_list_must_belong_to_the_data(images, tmp_path):
    names = [images.name(index) for index in (4, 11)]
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n\n")
    assert listed_subset(images, tmp_path / "list.txt").indices.tolist() == [4, 11]
    (tmp_path / "list.txt").write_text("nothing.png\n")
    with pytest.raises(ValueError, match="1 of 1 images"):
        listed_subset(images, tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(ValueError, match="names no image"):
        listed_subset(images, tmp_path / "list.txt")


def test_which_images_a_protocol_takes(images, tmp_path, monkeypatch):
    assert low_shot_subset(images, None, None, 0) is images
    assert np.array_equal(low_shot_subset(images, 0.1, None, 3).indices, drawn_subset(images, 0.1, 3).indices)
    names = [images.name(index) for index in (5, 6)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    assert low_shot_subset(images, None, tmp_path / "list.txt", 0).indices.tolist() == [5, 6]
    with pytest.raises(ValueError, match="give one of them"):
        low_shot_subset(images, 0.1, tmp_path / "list.txt", 0)
    # One percent of ImageNet is a published list, any other share of it a draw.
    images.description = replace(images.description, name="imagenet-1k")
    monkeypatch.setitem(LINES, 1, 3)
    (tmp_path / "imagenet_subsets").mkdir()
    (tmp_path / "imagenet_subsets/1percent.txt").write_text("".join(f"n00000001_{n}.JPEG\n" for n in (2, 9, 12)))
    monkeypatch.setattr(images, "file_names", lambda: [f"n00000001/n00000001_{n}.JPEG" for n in range(30)])
    assert low_shot_subset(images, 0.01, None, 0, tmp_path).indices.tolist() == [2, 9, 12]
    assert "drawn with seed" in low_shot_subset(images, 0.02, None, 0, tmp_path).description.split_rule
