import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessor

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.models.image_processing import resize_image_processor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _photograph(seed: int, width: int, height: int) -> Image.Image:
    """Smooth and coloured, so that resizing is a matter of method and not of noise."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def _by_hand(image: Image.Image, shorter: int, crop: int) -> torch.Tensor:
    width, height = image.size
    scale = shorter / min(width, height)
    resized = image.resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    left, top = (resized.width - crop) // 2, (resized.height - crop) // 2
    pixels = np.asarray(resized.crop((left, top, left + crop, top + crop)), dtype=np.float64) / 255
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1).float()


@pytest.mark.parametrize(
    ("image_size", "shorter"), [(224, 256), (32, 37), (96, 110), (256, 293), (384, 439), (448, 512)]
)
def test_sizes_scale_with_the_image_size(image_size, shorter):
    processor = image_processor(image_size)
    assert dict(processor.size) == {"shortest_edge": shorter}
    assert dict(processor.crop_size) == {"height": image_size, "width": image_size}
    assert tuple(processor.image_mean) == MEAN
    assert tuple(processor.image_std) == STD
    assert processor.resample == Image.Resampling.BICUBIC == 3


@pytest.mark.parametrize(("width", "height"), [(300, 260), (256, 410), (640, 512), (200, 240), (256, 256)])
def test_numbers_equal_resizing_cropping_and_normalising_by_hand(width, height):
    image = _photograph(width, width, height)
    pixels = image_processor(224)(image, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224)
    assert pixels.dtype == torch.float32
    expected = _by_hand(image, 256, 224)
    # Two implementations of bicubic resizing round to whole grey levels: at most two of 255 apart.
    assert (pixels[0] - expected).abs().max() < 2.01 / 255 / min(STD)
    assert (pixels[0] - expected).abs().mean() < 0.3 / 255 / min(STD)


def test_the_crop_is_the_centre():
    image = Image.new("RGB", (512, 256))
    image.paste((255, 255, 255), (144, 16, 368, 240))
    pixels = image_processor(224)(image, return_tensors="pt")["pixel_values"][0]
    white = torch.tensor([(1 - m) / s for m, s in zip(MEAN, STD, strict=True)])
    torch.testing.assert_close(pixels, white[:, None, None].expand(3, 224, 224), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode):
    image = _photograph(5, 60, 48).convert(mode)
    processor = image_processor(32)
    found = processor(image, return_tensors="pt")["pixel_values"]
    expected = processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, 32, 32)
    assert torch.equal(found, expected)


def test_a_batch_of_different_sizes():
    images = [_photograph(1, 40, 60), _photograph(2, 90, 33), _photograph(3, 37, 37)]
    processor = image_processor(32)
    batch = processor(images, return_tensors="pt")["pixel_values"]
    assert batch.shape == (3, 3, 32, 32)
    for image, pixels in zip(images, batch, strict=True):
        torch.testing.assert_close(pixels, processor(image, return_tensors="pt")["pixel_values"][0])


def test_travels_with_a_checkpoint_and_fits_its_model(tmp_path):
    model = SynCoModel(SynCoConfig("vit-nano"))
    model.save_pretrained(tmp_path)
    processor = image_processor(model.config.image_size)
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    image = _photograph(7, 50, 44)
    pixels = loaded(image, return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels, processor(image, return_tensors="pt")["pixel_values"])
    assert model(pixels).pooler_output.shape == (1, 96)


def test_for_another_image_size_every_size_grows_alike():
    resized = resize_image_processor(image_processor(32), 64)
    assert dict(resized.crop_size)["height"] == dict(resized.crop_size)["width"] == 64
    assert dict(resized.size)["shortest_edge"] == 74
    squashed = resize_image_processor(ViTImageProcessor(size={"height": 32, "width": 32}), 48)
    pixels = squashed(_photograph(1, 90, 60), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 48, 48)
    assert squashed.image_mean == ViTImageProcessor().image_mean
    with pytest.raises(ValueError, match="object has no size"):
        resize_image_processor(object(), 48)
