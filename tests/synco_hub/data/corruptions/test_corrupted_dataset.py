import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageFolderDataset
from synco_hub.data.corruptions.corrupted_dataset import ChangedDataset, Corruption, pixel_transform
from synco_hub.data.corruptions.corruptions import corrupted, corruption_key


@pytest.fixture
def images(tmp_path):
    generator = np.random.default_rng(4)
    for name in ("a", "b"):
        Image.fromarray(generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "c.png").write_bytes(b"no image")
    return ImageFolderDataset(tmp_path, ["a.png", "b.png", "c.png"], [0, 1, 0], ["x", "y"], "test", "all")


def test_without_a_change_it_is_the_plain_evaluation(images):
    transform = EvaluationTransform(32)
    plain, changed = (
        EvaluationDataset(images, transform),
        ChangedDataset(images, transform, lambda pixels, index: pixels),
    )
    for index in range(2):
        assert torch.equal(plain[index]["pixel_values"], changed[index]["pixel_values"])
    assert changed[2]["bad_index"] == 2


def test_a_corruption_is_drawn_after_the_crop_by_the_position_of_the_image(images):
    transform = EvaluationTransform(32)
    cell = ChangedDataset(images, transform, Corruption("impulse_noise", 4, seed=9))
    for index in (1, 0):
        crop = pixel_transform(transform)(images.load_image(index))
        pixels = (crop * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        expected = corrupted(pixels, "impulse_noise", 4, corruption_key(9, index, "impulse_noise", 4))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
        assert torch.allclose(
            cell[index]["pixel_values"], (torch.from_numpy(expected).permute(2, 0, 1) / 255 - mean) / std
        )
    with pytest.raises(ValueError, match="'rain' is unknown"):
        Corruption("rain", 1, 0)
