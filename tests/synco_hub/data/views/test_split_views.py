import numpy as np
import pytest
import torch

from synco_hub.data.views.crop_resize import crop_resized
from synco_hub.data.views.device_views import DeviceViews
from synco_hub.data.views.draw_row import DRAW_ROW, draw_row
from synco_hub.data.views.split_views import SplitTwoViewTransform
from synco_hub.data.views.two_view_parameters import TwoViewParameters
from synco_hub.data.views.view_draw import draw_view

PAPER = TwoViewParameters()


def image(seed: int, width: int = 50, height: int = 37) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_view_is_its_crop_and_its_draw() -> None:
    picture = image(0)
    for view, cropped in enumerate(SplitTwoViewTransform(32)(picture, 77)):
        draw = draw_view(PAPER, view, 50, 37, 77)
        assert np.array_equal(cropped.crop, crop_resized(picture, draw, 32))
        assert torch.equal(cropped.draw, torch.tensor(draw_row(draw), dtype=torch.float32))
        assert (cropped.crop.dtype, cropped.crop.shape) == (torch.uint8, (32, 32, 3))
        assert (cropped.draw.dtype, cropped.draw.shape) == (torch.float32, (len(DRAW_ROW),))


def test_a_function_of_its_key_that_leaves_global_generators_alone() -> None:
    transform, picture = SplitTwoViewTransform(16), image(1)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = transform(picture, 5), transform(picture, 5), transform(picture, 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert not torch.equal(first[0].crop, other[0].crop)
    assert not torch.equal(first[0].crop, first[1].crop)


def test_the_other_half_knows_size_and_parameters() -> None:
    parameters = TwoViewParameters(mean=(0.1, 0.2, 0.3), solarization_threshold=51)
    half = SplitTwoViewTransform(64, parameters).device_half()
    assert isinstance(half, DeviceViews)
    assert half.offsets.shape == (4, 64, 64)
    assert half.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert half.solarization_threshold == pytest.approx(0.2)


def test_impossible_size() -> None:
    with pytest.raises(ValueError, match="image size 0"):
        SplitTwoViewTransform(0)
