import pytest

from synco_hub.data.class_folders import read_class_folders
from synco_hub.data.class_lists import class_list


def test_whole_numbers_are_labels_and_wnids_are_looked_up(tmp_path, planted):
    for label in (0, 2, 10, 100, 999):
        planted.write(tmp_path / "v2" / str(label) / "a.jpeg", label)
    images = read_class_folders(tmp_path / "v2", "imagenet_1k")
    assert {images.name(index): int(images.labels[index]) for index in range(5)} == {
        f"{label}/a.jpeg": label for label in (0, 2, 10, 100, 999)
    }
    wnids = class_list("imagenet_r")
    for label in (199, 3):
        planted.write(tmp_path / "r" / wnids[label] / "a.png", label)
    assert sorted(read_class_folders(tmp_path / "r", "imagenet_r").labels) == [3, 199]
    with pytest.raises(ValueError, match=r"images of 2 of the 200 classes of imagenet_r, n\d+.* missing"):
        read_class_folders(tmp_path / "r", "imagenet_r", whole=True)


def test_other_classes_are_left_out_if_allowed_and_else_refused(tmp_path, planted):
    outside = next(name for name in class_list("imagenet_1k") if name not in class_list("imagenet_o"))
    for name in (outside, class_list("imagenet_o")[7]):
        planted.write(tmp_path / name / "a.png", 0)
    images = read_class_folders(tmp_path, "imagenet_o", others=True)
    assert images.labels.tolist() == [7]
    with pytest.raises(ValueError, match="1 of 2 classes are not among the 200"):
        read_class_folders(tmp_path, "imagenet_o")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in a class folder"):
        read_class_folders(tmp_path / "empty", "imagenet_o")
