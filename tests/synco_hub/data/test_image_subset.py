from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.image_folder import ImageFolderDataset
from synco_hub.data.image_subset import listed_subset, spread_subset, subset_of_classes


@pytest.fixture
def images(tmp_path: Path) -> ImageFolderDataset:
    names = [f"{'abc'[number % 3]}/n{number}.JPEG" for number in range(9)]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (number, number, number)).save(tmp_path / name, "PNG")
    return ImageFolderDataset(tmp_path, names, [number % 3 for number in range(9)], ["a", "b", "c"], "train", "rule")


@pytest.mark.parametrize(
    "spell", [str, lambda name: name.split("/")[1], lambda name: name.split("/")[1][:-5] + ".jpg"]
)
def test_a_list_names_files_with_and_without_folder_and_extension(spell, images, tmp_path: Path):
    kept = [7, 1, 4]
    (tmp_path / "list.txt").write_text("\n".join(spell(images.name(index)) for index in kept))
    subset = listed_subset(images, tmp_path / "list.txt")
    assert [subset.name(index) for index in range(3)] == [images.name(index) for index in sorted(kept)]
    assert subset.labels.tolist() == [1, 1, 1]
    assert [subset.load_image(index).getpixel((0, 0))[0] for index in range(3)] == [1, 4, 7]
    assert subset.encoded(0) == images.encoded(1)
    assert "3 of 9 images" in subset.description.split_rule


def test_classes_in_a_new_order(images):
    subset = subset_of_classes(images, ["c", "a"])
    assert subset.class_names == ["c", "a"]
    assert [(subset.name(index)[0], subset.labels[index]) for index in range(6)] == [("a", 1), ("c", 0)] * 3
    with pytest.raises(ValueError, match="has no z: 1 of 2 classes"):
        subset_of_classes(images, ["a", "z"])


def test_several_classes_an_image_stay_with_it(images, tmp_path: Path):
    images.multi_hot = np.arange(27, dtype=np.float32).reshape(9, 3)
    (tmp_path / "list.txt").write_text("n8.JPEG\nn2.JPEG")
    assert (listed_subset(images, tmp_path / "list.txt").multi_hot == images.multi_hot[[2, 8]]).all()


def test_a_bounded_number_is_spread_over_the_images_and_their_classes(images):
    assert spread_subset(images, 9) is images
    assert spread_subset(images, 100) is images
    for count in range(1, 9):
        subset = spread_subset(images, count)
        indices = subset.indices.tolist()
        assert len(set(indices)) == len(subset) == count
        assert all(9 * part // count <= index < 9 * (part + 1) // count for part, index in enumerate(indices))
        assert indices == spread_subset(images, count).indices.tolist()
    # The classes take turns, and a stretch has three images.
    assert len(set(spread_subset(images, 3).labels.tolist())) > 1
    assert "3 of 9 images" in spread_subset(images, 3).description.split_rule
    with pytest.raises(ValueError, match="max_images=0"):
        spread_subset(images, 0)
