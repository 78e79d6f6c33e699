import numpy as np
import pytest
import torch
from PIL import Image
from synco_hub.cli.evaluation_inputs import DataChoice, best_device, evaluation_split

from synco_hub.models import image_processor


def folder_of(root, count: int):
    rng = np.random.default_rng(3)
    for index in range(count):
        path = root / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return root


def test_images_are_prepared_as_the_models_processor_does(tmp_path):
    processor = image_processor(32)
    split = evaluation_split(DataChoice(str(folder_of(tmp_path, 10))), "test", processor)
    item = split[0]
    expected = processor(split.images.load_image(0), return_tensors="pt").pixel_values[0]
    assert item["pixel_values"].shape == (3, 32, 32)
    # Resizing rounds to whole grey levels in one of the two; a level is 1 / 255 / 0.225 after normalisation.
    assert (item["pixel_values"] - expected).abs().max() < 2.5 / 255 / 0.224


def test_both_splits_come_from_the_same_draw_and_do_not_overlap(tmp_path):
    root = folder_of(tmp_path, 20)
    names = {}
    for seed in (0, 1):
        train, test = (
            evaluation_split(DataChoice(str(root), split_seed=seed), s, image_processor(32)) for s in ("train", "test")
        )
        names[seed] = {test.name(index) for index in range(len(test))}
        assert len(train) + len(test) == 20
        assert not names[seed] & {train.name(index) for index in range(len(train))}
    assert names[0] != names[1]


def test_a_set_of_test_images_beside_a_folder_of_its_name_has_no_training_images(tmp_path, monkeypatch):
    folder_of(tmp_path / "imagenet-a", 4)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="imagenet-a has test images only"):
        evaluation_split(DataChoice("imagenet-a", data_dir="imagenet-a"), "train", image_processor(32))


def test_the_device_is_the_one_asked_for_or_the_best():
    assert best_device("meta") == "meta"
    assert best_device(None) == ("cuda" if torch.cuda.is_available() else "cpu")
