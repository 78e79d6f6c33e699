import pytest
import torch
from PIL import Image

from synco_hub.models import image_processor
from trainers.classification.classification_arguments import LabelledDataArguments
from trainers.classification.labelled_data import data_source, labelled_data


def folder(root, classes):
    for split, names in classes.items():
        for name in names:
            for index in range(4):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 24), (10 * index, 0, 0)).save(path)
    return str(root)


def test_both_splits_and_their_targets(tmp_path):
    arguments = LabelledDataArguments(model="m", dataset=folder(tmp_path, {"train": "ab", "test": "ab"}))
    data = labelled_data(arguments, image_processor(16), 0, "probing")
    assert torch.equal(data.train_targets.values, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    assert data.test_targets.class_names == ("a", "b")
    assert data.train[0, 0]["pixel_values"].shape == (3, 16, 16)
    assert data_source(data.test.images, skipped=1).count == 7


def test_low_shot_by_list_and_bad_choices(tmp_path):
    dataset = folder(tmp_path / "data", {"train": "ab", "test": "ab"})
    (tmp_path / "list.txt").write_text("b/3.png\n")
    listed = LabelledDataArguments(model="m", dataset=dataset, train_list=str(tmp_path / "list.txt"))
    assert len(labelled_data(listed, image_processor(16), 0, "probing").train) == 1
    (tmp_path / "list.txt").write_text("3.png\n")
    with pytest.raises(ValueError, match=r"first '3.png' \(2 images\)"):
        labelled_data(listed, image_processor(16), 0, "probing")
    both = LabelledDataArguments(model="m", dataset=dataset, train_list="x", train_fraction=0.1)
    with pytest.raises(ValueError, match="give one of them"):
        labelled_data(both, image_processor(16), 0, "probing")


def test_splits_of_other_classes_are_refused(tmp_path):
    dataset = folder(tmp_path, {"train": "ab", "test": "ab"})
    unlabelled = tmp_path / "flat"
    unlabelled.mkdir()
    Image.new("RGB", (8, 8)).save(unlabelled / "0.png")
    assert dataset
    with pytest.raises(ValueError, match="class sub-folders"):
        labelled_data(LabelledDataArguments(model="m", dataset=str(unlabelled)), image_processor(16), 0, "probing")
