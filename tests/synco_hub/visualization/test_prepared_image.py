"""One processor cuts what the model sees and what is shown, so both show the same scene."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from synco_hub.models import image_processor
from synco_hub.visualization import denormalised, prepared_image
from synco_hub.visualization.prepared_image import same_part


def gradient(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * rows / height, 255 * columns / width, np.full_like(rows, 90.0)], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("size", [(300, 200), (64, 400)])
@pytest.mark.parametrize("detail", [1, 3])
def test_the_shown_picture_is_the_models_crop_in_more_pixels(size, detail):
    processor = image_processor(32)
    prepared = prepared_image(gradient(*size), processor, detail, shown_side=200)
    side = 32 * detail
    assert prepared.pixel_values.shape == (1, 3, side, side)
    assert min(prepared.shown.shape[:2]) >= 200
    seen = denormalised(prepared.pixel_values[0], processor.image_mean, processor.image_std)
    enlarged = torch.from_numpy(prepared.shown).permute(2, 0, 1)[None]
    smaller = torch.nn.functional.interpolate(enlarged, (side, side), mode="area")[0]
    assert (smaller - seen).abs().max() < 0.05


def test_without_detail_the_model_sees_what_its_processor_gives():
    processor, picture = image_processor(32), gradient(70, 50)
    prepared = prepared_image(picture, processor)
    assert torch.equal(prepared.pixel_values, processor(picture, return_tensors="pt").pixel_values)
    assert prepared.shown.shape == (32, 32, 3)


def test_a_processor_that_squeezes_instead_of_cropping_is_followed():
    processor = ViTImageProcessor(size={"height": 48, "width": 48})
    prepared = prepared_image(gradient(200, 50), processor, 2, shown_side=96)
    assert prepared.pixel_values.shape == (1, 3, 96, 96)
    assert prepared.shown[0, :, 1].max() > 0.97  # the right border is still there


@pytest.mark.parametrize(
    ("size", "detail", "message"), [((7, 40), 1, "at least 8"), ((1000, 20), 1, "crop it"), ((9, 9), 0, "detail=0")]
)
def test_unusable_pictures_are_refused(size, detail, message):
    with pytest.raises(ValueError, match=message):
        prepared_image(gradient(*size), image_processor(32), detail)


def test_the_same_crop_in_other_pixels_is_the_same_part_and_another_crop_is_not():
    picture = gradient(300, 200)
    small, large = (prepared_image(picture, image_processor(side)).shown for side in (32, 64))
    assert same_part(small, large)
    narrow = ViTImageProcessor(size={"shortest_edge": 96}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    assert not same_part(small, prepared_image(picture, narrow).shown)
    assert not same_part(small, small[:, :24])
