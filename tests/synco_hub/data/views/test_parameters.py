from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from synco_hub.data.views.parameters import TwoViewParameters

# Table 11 of the paper: parameter, T_q, T_k.
TABLE_11 = {
    "random_crop_probability": (1.0, 1.0),
    "flip_probability": (0.5, 0.5),
    "color_jitter_probability": (0.8, 0.8),
    "brightness": (0.4, 0.4),
    "contrast": (0.4, 0.4),
    "saturation": (0.2, 0.2),
    "hue": (0.1, 0.1),
    "color_dropping_probability": (0.2, 0.2),
    "gaussian_blur_probability": (1.0, 0.1),
    "solarization_probability": (0.0, 0.2),
}


@pytest.mark.parametrize("name", TABLE_11)
def test_the_numbers_of_table_11(name: str) -> None:
    value = getattr(TwoViewParameters(), name)
    assert (value if isinstance(value, tuple) else (value, value)) == TABLE_11[name]


def test_what_byol_adds() -> None:
    parameters = TwoViewParameters()
    assert parameters.crop_scale == (0.08, 1.0)
    assert parameters.crop_ratio == (3 / 4, 4 / 3)
    assert parameters.blur_sigma == (0.1, 2.0)
    assert parameters.solarization_threshold == 128
    assert [parameters.blur_kernel_size(size) for size in (224, 96, 64, 32, 8)] == [23, 9, 7, 3, 3]
    assert all(parameters.blur_kernel_size(size) % 2 for size in range(1, 600))
    with pytest.raises(FrozenInstanceError):
        parameters.hue = 0.2  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip_probability": 1.1},
        {"gaussian_blur_probability": (1.0, -0.1)},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.5, 1.5)},
        {"crop_ratio": (2.0, 1.0)},
        {"blur_sigma": (0.0, 2.0)},
        {"brightness": 1.5},
        {"hue": 0.6},
        {"solarization_threshold": 300},
        {"std": (0.2, 0.0, 0.2)},
    ],
)
def test_impossible_numbers_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TwoViewParameters(**wrong)
