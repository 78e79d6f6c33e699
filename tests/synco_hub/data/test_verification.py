from dataclasses import replace
from pathlib import Path

from synco_hub.data.catalog import catalog_row
from synco_hub.data.image_folder import ImageFolderDataset
from synco_hub.data.verification import verify_split

ROW = replace(catalog_row("cifar10"), counts={"train": 40, "test": 20})


def split_of(labels: list[int], num_classes: int) -> ImageFolderDataset:
    names = [f"{number}.png" for number in range(len(labels))]
    return ImageFolderDataset(Path("set"), names, labels, [str(number) for number in range(num_classes)], "test", "")


def test_a_complete_split_agrees():
    assert verify_split(ROW, split_of(list(range(10)) * 2, 10), "test").agrees


def test_a_removed_image_a_missing_class_and_the_wrong_split_do_not():
    labels = list(range(10)) * 2
    assert not verify_split(ROW, split_of(labels[1:], 10), "test").agrees
    without_nine = verify_split(ROW, split_of([label % 9 for label in labels], 10), "test")
    assert (without_nine.images, without_nine.classes, without_nine.agrees) == (20, 9, False)
    assert not verify_split(ROW, split_of(labels, 10), "train").agrees


def test_the_draw_from_the_archive_has_the_image_that_the_copy_lacks():
    verdict = verify_split(catalog_row("caltech101"), split_of([0], 102), "test")
    assert (verdict.expected_images, verdict.expected_classes) == (6085, 102)
