"""The images of a protocol: which split, drawn how, prepared as the model's own processor would."""

import numpy as np
import pytest
from PIL import Image

from synco_hub.evaluation.measurement import EvaluatedModel, open_split
from synco_hub.models import image_processor
from synco_hub.settings import DatasetChoice


def folder_of(root, count: int):
    rng = np.random.default_rng(3)
    for index in range(count):
        path = root / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(path)
    return str(root)


@pytest.fixture
def model():
    return EvaluatedModel(None, image_processor(32), "m")


def test_images_are_prepared_as_the_models_processor_does(tmp_path, model):
    split = open_split(DatasetChoice(folder_of(tmp_path, 10)), "test", model)
    item = split[0]
    expected = model.processor(split.images.load_image(0), return_tensors="pt").pixel_values[0]
    assert item["pixel_values"].shape == (3, 32, 32)
    # Resizing rounds to whole grey levels in one of the two; a level is 1 / 255 / 0.225 after normalisation.
    assert (item["pixel_values"] - expected).abs().max() < 2.5 / 255 / 0.224


def test_both_splits_come_from_the_same_draw_and_do_not_overlap(tmp_path, model):
    root = folder_of(tmp_path, 20)
    names = {}
    for seed in (0, 1):
        train, test = (open_split(DatasetChoice(root, split_seed=seed), split, model) for split in ("train", "test"))
        names[seed] = {test.name(index) for index in range(len(test))}
        assert len(train) + len(test) == 20
        assert not names[seed] & {train.name(index) for index in range(len(train))}
    assert names[0] != names[1]
