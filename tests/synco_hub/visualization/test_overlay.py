"""Pictures in, pictures out: ranges, orientations, blends."""

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.visualization.overlay import (
    COLOUR_MAPS,
    as_rgb,
    blended,
    denormalised,
    overlay,
    relative_to_maximum,
    relative_to_range,
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
