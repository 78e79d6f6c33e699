import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data import EvaluationTransform, load_dataset
from synco_hub.data.samplers import random_key
from trainers.classification.augmented_dataset import AugmentedDataset, CropAndFlip

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


def test_only_crop_and_flip_are_drawn():
    """A picture of one colour stays that colour; half of all views of a gradient are mirrored."""
    transform = CropAndFlip(EvaluationTransform(16))
    plain = transform(np.full((30, 40, 3), (200, 100, 50), dtype=np.uint8), random_key(1))
    assert torch.allclose(plain, plain[:, :1, :1].expand_as(plain))
    ramp = np.array(Image.linear_gradient("L").rotate(90).convert("RGB"))
    rising = [bool((view := transform(ramp, random_key(9, i)))[0, 8, 15] > view[0, 8, 0]) for i in range(200)]
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
