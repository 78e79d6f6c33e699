"""Pictures in, pictures out: ranges, orientations, blends; what the model sees and what is shown are one scene."""

from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ConvNextImageProcessor, EfficientNetImageProcessor, ViTImageProcessor

from synco_hub.data import EvaluationTransform
from synco_hub.models import image_processor
from synco_hub.visualization import prepared_image
from synco_hub.visualization.overlay import (
    COLOUR_MAPS,
    as_rgb,
    blended,
    denormalised,
    overlay,
    pad_to_be_seen_whole,
    relative_to_maximum,
    relative_to_range,
    show_same_part,
)


def test_every_kind_of_image_becomes_the_same_array() -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = values.astype(np.float32) / 255
    floats = torch.from_numpy(expected).permute(2, 0, 1)
    for image in (Image.fromarray(values), values, values.astype(np.int64), expected, floats, floats[None]):
        picture = as_rgb(image)
        assert picture.dtype == np.float32
        np.testing.assert_allclose(picture, expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_modes_of_pillow_become_rgb(mode: str) -> None:
    assert as_rgb(Image.new(mode, (7, 5))).shape == (5, 7, 3)


def test_a_grey_array_gets_three_channels() -> None:
    assert as_rgb(np.full((2, 3), 255, dtype=np.uint8)).tolist() == np.ones((2, 3, 3)).tolist()


def test_denormalising_undoes_an_image_processor() -> None:
    picture = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    normalised = (picture - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(denormalised(normalised, mean, std), picture)


def test_the_strength_goes_from_image_to_map() -> None:
    image = np.full((2, 2, 3), 0.5, dtype=np.float32)
    attention = torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    np.testing.assert_allclose(overlay(image, attention, 0.0), image, atol=1e-6)
    colours = matplotlib.colormaps["magma"](np.array([[0.0, 0.25], [0.5, 1.0]]))[:, :, :3]
    np.testing.assert_allclose(overlay(image, attention, 1.0, "magma"), colours, atol=1e-6)
    np.testing.assert_allclose(overlay(image, attention, 0.25, "magma"), 0.75 * image + 0.25 * colours, atol=1e-6)


def test_a_map_of_zeros_stays_zero() -> None:
    assert relative_to_maximum(torch.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", COLOUR_MAPS)
def test_colour_maps_rise_in_lightness_so_that_they_read_in_grey(name: str) -> None:
    colours = matplotlib.colormaps[name](np.linspace(0, 1, 64))[:, :3]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance) > 0).all()


@pytest.mark.parametrize(
    ("image", "change", "message"),
    [
        (np.zeros((2, 2, 3)), {"strength": 1.5}, "strength=1.5"),
        (np.zeros((2, 2, 3)), {"colour_map": "nonsense"}, "colour_map='nonsense' .* viridis"),
        (np.zeros((3, 2, 3)), {}, "image is 3x2, the map 2x2"),
        (np.zeros((2, 2, 4)), {}, r"shape \(2, 2, 4\) cannot be drawn"),
        (torch.full((3, 2, 2), -1.5), {}, r"values from -1.5 to -1.5.* denormalised"),
    ],
)
def test_bad_input_is_refused(image: object, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overlay(image, torch.ones(2, 2), **change)


def test_blending_and_stretching() -> None:
    picture, colours = np.random.default_rng(0).random((2, 3, 4, 3))
    assert blended(picture, colours, 0.25)[1, 2, 0] == pytest.approx(0.75 * picture[1, 2, 0] + 0.25 * colours[1, 2, 0])
    maps = torch.stack([torch.tensor([[2.0, 4.0], [3.0, 6.0]]), torch.full((2, 2), 5.0)])
    assert relative_to_range(maps).tolist() == [[[0.0, 0.5], [0.25, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]


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


def test_what_is_shown_is_what_the_model_sees_whatever_the_processor_does_to_colours_and_sizes():
    pictures = {
        # Rescales to [-1, 1] first, and normalises twice.
        "EfficientNet": EfficientNetImageProcessor(size={"height": 48, "width": 48}, rescale_offset=True),
        # Crops below 384 pixels and squeezes from there on, so a larger view shows other parts.
        "ConvNeXt": ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.5),
        "one channel": ViTImageProcessor(size={"height": 48, "width": 48}, image_mean=[0.4], image_std=[0.2]),
    }
    for name, processor in pictures.items():
        transform = EvaluationTransform.from_image_processor(processor)
        shown = prepared_image(gradient(96, 64), processor, shown_side=400).shown
        seen = as_rgb(transform.without_normalisation()(gradient(96, 64)).expand(3, -1, -1))
        assert show_same_part(shown, seen), name
        assert (shown.shape == seen.shape) == (name == "ConvNeXt")


@pytest.mark.parametrize(
    ("size", "detail", "message"), [((7, 40), 1, "at least 8"), ((1000, 20), 1, "crop it"), ((9, 9), 0, "detail=0")]
)
def test_unusable_pictures_are_refused(size, detail, message):
    with pytest.raises(ValueError, match=message):
        prepared_image(gradient(*size), image_processor(32), detail)


def test_the_same_crop_in_other_pixels_is_the_same_part_and_another_crop_is_not():
    picture = gradient(300, 200)
    small, large = (prepared_image(picture, image_processor(side)).shown for side in (32, 64))
    assert show_same_part(small, large)
    narrow = ViTImageProcessor(size={"shortest_edge": 96}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    assert not show_same_part(small, prepared_image(picture, narrow).shown)
    assert not show_same_part(small, small[:, :24])


@pytest.mark.parametrize("size", [(300, 100), (100, 300), (90, 90)])
def test_padded_pictures_are_seen_whole(size):
    processor = image_processor(64)
    picture = Image.new("RGB", size, "red")
    seen = prepared_image(pad_to_be_seen_whole(picture, processor), processor).shown
    red = (seen[..., 0] > 0.7) & (seen[..., 1] < 0.2)
    # The longer side fills the view, and its shape is kept.
    rows, columns = red.any(axis=1).nonzero()[0], red.any(axis=0).nonzero()[0]
    width, height = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    assert max(width, height) >= 60
    assert width / height == pytest.approx(size[0] / size[1], rel=0.12)


def test_padding_leaves_what_a_processor_of_timm_crops():
    processor = SimpleNamespace(data_config={"crop_pct": 0.8}, image_mean=None)
    padded = pad_to_be_seen_whole(Image.new("RGB", (80, 40), "red"), processor)
    assert padded.size == (100, 100)
    assert padded.getbbox() == (0, 0, 100, 100)
    assert padded.getpixel((10, 30)) == padded.getpixel((89, 69)) == (255, 0, 0)
    assert padded.getpixel((9, 30)) == (128, 128, 128)
