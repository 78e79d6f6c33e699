import sys

import numpy as np
import pytest

from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.data.corruptions import corruptions
from synco_hub.data.corruptions.corruptions import (
    SEVERITIES,
    corrupted,
    corruption_key,
    fog,
    glass_blur,
    impulse_noise,
)

needs_package = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("imagecorruptions") is None, reason="extra robustness"
)


def picture(height=40, width=36, seed=0):
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(rows / 5)[..., None] * np.cos(columns[..., None] / np.array([4.0, 6.0, 9.0]))
    return np.uint8(np.clip(waves + generator.normal(0, 6, (height, width, 3)), 0, 255))


@needs_package
@pytest.mark.parametrize("name", BENCHMARK_CORRUPTIONS)
def test_every_corruption_is_repeatable_changes_the_image_and_leaves_the_global_generator(name):
    image = picture()
    np.random.seed(7)
    expected = np.random.get_state()[1].tolist()
    for severity in SEVERITIES:
        key = corruption_key(3, 11, name, severity)
        once, twice = (corrupted(image.copy(), name, severity, key) for _ in range(2))
        assert once.shape == image.shape
        assert once.dtype == np.uint8
        assert (once == twice).all()
        assert (once != image).any()
    assert np.random.get_state()[1].tolist() == expected


@needs_package
@pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "fog", "frost", "motion_blur"])
def test_drawn_corruptions_differ_from_image_to_image_and_from_seed_to_seed(name):
    image = picture()
    versions = [
        corrupted(image, name, 3, corruption_key(*place, name, 3)).tobytes() for place in ((0, 0), (0, 1), (1, 0))
    ]
    assert len(set(versions)) == 3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_turns_the_given_share_to_black_and_white(severity):
    grey = np.full((200, 200, 3), 0.5)
    noisy = impulse_noise(grey, severity, np.random.default_rng(severity))
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    for extreme in (0.0, 1.0):
        assert (noisy == extreme).mean() == pytest.approx(amount / 2, abs=0.004)
    assert (noisy == 0.5).mean() == pytest.approx(1 - amount, abs=0.006)


def slow_glass_blur(image, severity, generator):
    """Pixels themselves change places, one after the other."""
    from scipy.ndimage import gaussian_filter

    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[severity - 1]

    def blur(values):
        return gaussian_filter(values, (sigma, sigma, 0), mode="nearest", truncate=4.0)

    values = np.uint8(blur(image) * 255) / 255
    height, width = image.shape[:2]
    for _ in range(rounds):
        steps = generator.integers(-reach, reach, size=(height - 2 * reach, width - 2 * reach, 2))
        for i, row in enumerate(range(height - reach, reach, -1)):
            for j, column in enumerate(range(width - reach, reach, -1)):
                other = row + steps[i, j, 0], column + steps[i, j, 1]
                kept = values[row, column].copy()
                values[row, column] = values[other]
                values[other] = kept
    return blur(values)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_glass_blur_is_blur_exchange_blur(severity):
    pytest.importorskip("scipy")
    image = picture(seed=severity) / 255
    ours = glass_blur(image, severity, np.random.default_rng(2))
    slow = slow_glass_blur(image, severity, np.random.default_rng(2))
    # A value at the edge of two grey levels may be cut to either.
    assert np.abs(ours - slow).max() < 1.5 / 255
    assert np.abs(ours - slow).mean() < 1e-4


def test_fog_keeps_the_brightest_value_as_its_bound_and_gets_thicker():
    image = picture() / 255
    left = []
    for severity in SEVERITIES:
        foggy = fog(image, severity, np.random.default_rng(1))
        assert foggy.max() <= image.max() + 1e-12
        left.append(image.max() / (image.max() + (1.5, 2.0, 2.5, 2.5, 3.0)[severity - 1]))
        # What is left of the picture is its share of the sum.
        assert np.std(foggy - foggy.mean(axis=2, keepdims=True)) == pytest.approx(
            left[-1] * np.std(image - image.mean(axis=2, keepdims=True)), rel=1e-9
        )
    assert left == sorted(left, reverse=True)
    assert fog(np.zeros((32, 40, 3)), 3, np.random.default_rng(0)).max() == 0


def test_bad_input_is_refused(monkeypatch):
    image = picture()
    for arguments, text in (
        ((image, "saturate", 1, 0), "'saturate' is unknown"),
        ((image, "fog", 6, 0), "severity 6 is unknown"),
        ((image[..., :1], "fog", 1, 0), "give 8-bit RGB"),
        ((image / 255, "fog", 1, 0), "give 8-bit RGB"),
        ((image[:31], "fog", 1, 0), "36 x 31 pixels: corruptions need at least 32 x 32"),
    ):
        with pytest.raises(ValueError, match=text):
            corrupted(*arguments)
    corruptions.require_package.cache_clear()
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match="pip install imagecorruptions=="):
        corrupted(image, "snow", 1, 0)
    corruptions.require_package.cache_clear()
