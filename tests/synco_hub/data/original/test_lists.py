from pathlib import Path

import pytest
from data_trees.original import put, write_original

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.loading import load_dataset
from synco_hub.data.original.lists import read_dtd, read_fgvc_aircraft, read_food101, read_oxford_pets, read_sun397
from synco_hub.settings import DatasetChoice


def test_labels_that_do_not_belong_to_the_pets(tmp_path: Path):
    write_original("oxford-pets", tmp_path)
    file = tmp_path / "annotations/test.txt"
    lines = file.read_text().split("\n")
    first, second = lines[0].split(), lines[1].split()
    lines[0] = " ".join([first[0], second[1], *first[2:]])
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="labels and images do not belong together"):
        read_oxford_pets(tmp_path, "train")


@pytest.mark.parametrize(
    ("line", "message"), [("cat_1 1 1", "has 3 fields, not 4"), ("cat_1 0 1 1", "'0' is no whole")]
)
def test_damaged_lines(line: str, message: str, tmp_path: Path):
    write_original("oxford-pets", tmp_path)
    put(tmp_path / "annotations/test.txt", line)
    with pytest.raises(ValueError, match=message):
        read_oxford_pets(tmp_path, "test")


def test_food_without_a_list_of_classes_takes_those_of_the_training_images(tmp_path: Path):
    write_original("food101", tmp_path)
    (tmp_path / "food-101/meta/classes.txt").unlink()
    found = read_food101(tmp_path, "train")
    assert list(found.class_names) == sorted({name.split("/")[0] for name in found.names})


def test_another_partition_of_dtd_is_another_split(tmp_path: Path):
    write_original("dtd", tmp_path)
    assert set(read_dtd(tmp_path, "test", 2).names) != set(read_dtd(tmp_path, "test").names)
    assert "partition 2" in read_dtd(tmp_path, "test", 2).rule


def test_a_variant_that_is_none(tmp_path: Path):
    write_original("fgvc-aircraft", tmp_path)
    put(tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt", "0000001 Zeppelin NT\n")
    with pytest.raises(ValueError, match=r"1 classes are not in the set's list of classes \(Zeppelin NT\)"):
        read_fgvc_aircraft(tmp_path, "test")
    put(tmp_path / "fgvc-aircraft-2013b/data/images_variant_test.txt", "0000001\n")
    with pytest.raises(ValueError, match="not an image and its variant"):
        read_fgvc_aircraft(tmp_path, "test")


def test_sun_reads_lists_among_the_images_too(tmp_path: Path):
    tree = write_original("sun397", tmp_path)
    for file in (tmp_path / "Partitions").iterdir():
        file.rename(tmp_path / "SUN397" / file.name)
    found = read_sun397(tmp_path / "SUN397", "train")
    assert list(found.labels) == tree.labels["train"]
    assert found.class_names[1] == "apse/indoor"


def test_an_image_that_is_not_there_is_an_unreadable_one(tmp_path: Path):
    write_original("food101", tmp_path)
    images = load_dataset(DatasetChoice("food101", data_dir=str(tmp_path)), "test")
    for position, content in ((0, None), (1, b""), (2, b"\xff\xd8\xff cut off")):
        path = tmp_path / "food-101/images" / images.name(position)
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UnreadableImageError, match=images.name(position)):
            images.load_image(position)
    assert images.load_image(3).mode == "RGB"
