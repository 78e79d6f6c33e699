import numpy as np
import pytest

from synco_hub.data import load_dataset
from synco_hub.evaluation.low_shot import drawn_subset, listed_subset


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
