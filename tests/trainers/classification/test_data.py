import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data import EvaluationTransform, load_dataset
from synco_hub.data.samplers import derive_random_key
from synco_hub.models import image_processor
from trainers.classification.data import AugmentedDataset, CropAndFlip, FeatureDataset, data_source, load_labelled_data
from trainers.classification.settings import LabelledDataArguments


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
    data = load_labelled_data(arguments, image_processor(16), 0, "probing")
    assert torch.equal(data.train_targets.values, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    assert data.test_targets.class_names == ("a", "b")
    assert data.train[0, 0]["pixel_values"].shape == (3, 16, 16)
    assert data_source(data.test.images, skipped=1).count == 7


def test_low_shot_by_list_and_bad_choices(tmp_path):
    dataset = folder(tmp_path / "data", {"train": "ab", "test": "ab"})
    (tmp_path / "list.txt").write_text("b/3.png\n")
    listed = LabelledDataArguments(model="m", dataset=dataset, train_list=str(tmp_path / "list.txt"))
    assert len(load_labelled_data(listed, image_processor(16), 0, "probing").train) == 1
    (tmp_path / "list.txt").write_text("3.png\n")
    with pytest.raises(ValueError, match=r"first '3.png' \(2 images\)"):
        load_labelled_data(listed, image_processor(16), 0, "probing")
    both = LabelledDataArguments(model="m", dataset=dataset, train_list="x", train_fraction=0.1)
    with pytest.raises(ValueError, match="give one of them"):
        load_labelled_data(both, image_processor(16), 0, "probing")


def test_splits_of_other_classes_are_refused(tmp_path):
    dataset = folder(tmp_path, {"train": "ab", "test": "ab"})
    unlabelled = tmp_path / "flat"
    unlabelled.mkdir()
    Image.new("RGB", (8, 8)).save(unlabelled / "0.png")
    assert dataset
    with pytest.raises(ValueError, match="class sub-folders"):
        load_labelled_data(
            LabelledDataArguments(model="m", dataset=str(unlabelled)), image_processor(16), 0, "probing"
        )


DATA = "fractals:num_classes=3,train_images_per_class=4,test_images_per_class=2"


@pytest.fixture
def dataset(tmp_path):
    images = load_dataset(DATA, "train", image_size=32, cache_dir=tmp_path)
    targets = torch.as_tensor(images.labels)
    return AugmentedDataset(images, targets, CropAndFlip(EvaluationTransform(32)), seed=3)


def test_views_depend_on_seed_epoch_and_index_alone(dataset):
    first = dataset[2, 5]["pixel_values"]
    torch.rand(7)
    assert torch.equal(dataset[2, 5]["pixel_values"], first)
    assert not torch.equal(dataset[3, 5]["pixel_values"], first)
    assert dataset[2, 5]["target"] == dataset.images.labels[5]
    assert dataset[2, 5]["bad_index"] == -1


def test_a_model_of_one_channel_is_trained_on_grey_views_as_it_is_measured_on_them():
    evaluation = EvaluationTransform(16, mean=(0.4,), std=(0.2,))
    colour = np.full((30, 40, 3), (200, 100, 50), dtype=np.uint8)
    view = CropAndFlip(evaluation)(colour, derive_random_key(1))
    assert view.shape == (1, 16, 16)
    assert torch.allclose(view, evaluation(Image.fromarray(colour)), atol=1e-6)


def test_only_crop_and_flip_are_drawn():
    """A picture of one colour stays that colour; half of all views of a gradient are mirrored."""
    transform = CropAndFlip(EvaluationTransform(16))
    plain = transform(np.full((30, 40, 3), (200, 100, 50), dtype=np.uint8), derive_random_key(1))
    assert torch.allclose(plain, plain[:, :1, :1].expand_as(plain))
    ramp = np.array(Image.linear_gradient("L").rotate(90).convert("RGB"))
    rising = [bool((view := transform(ramp, derive_random_key(9, i)))[0, 8, 15] > view[0, 8, 0]) for i in range(200)]
    assert 60 < sum(rising) < 140


def test_an_unreadable_image_is_marked_and_not_replaced(tmp_path):
    for index in range(3):
        path = tmp_path / "data" / "train" / "a" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
        (tmp_path / "data" / "test" / "a").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / "test" / "a" / "0.png")
    (tmp_path / "data" / "train" / "a" / "1.png").write_bytes(b"\x89PNG broken")
    images = load_dataset(str(tmp_path / "data"), "train")
    item = AugmentedDataset(images, torch.as_tensor(images.labels), CropAndFlip(EvaluationTransform(8)))[0, 1]
    assert item["bad_index"] == 1
    assert not item["pixel_values"].any()


def test_rows_by_position_and_by_epoch():
    values, targets = torch.randn(4, 3), torch.tensor([3, 1, 2, 0])
    dataset = FeatureDataset(values, targets)
    assert len(dataset) == 4
    for key in (2, (7, 2)):
        item = dataset[key]
        assert torch.equal(item["features"], values[2])
        assert (int(item["target"]), item["index"], item["bad_index"]) == (2, 2, -1)
    with pytest.raises(ValueError, match="4 features and 3 targets"):
        FeatureDataset(values, targets[:3])
