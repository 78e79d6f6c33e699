import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_trees.original import write_original
from PIL import Image

from synco_hub.data import EvaluationDataset, EvaluationTransform, ImageFolderDataset, corruptions, load_dataset
from synco_hub.data.catalog.sets import BENCHMARK_CORRUPTIONS
from synco_hub.data.corruptions import (
    SEVERITIES,
    ChangedDataset,
    Corruption,
    _elastic_transform,
    _fog,
    _glass_blur,
    _impulse_noise,
    _plasma,
    _watermark,
    corrupt_image,
    derive_corruption_key,
)
from synco_hub.settings import DatasetChoice

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
        key = derive_corruption_key(3, 11, name, severity)
        once, twice = (corrupt_image(image.copy(), name, severity, key) for _ in range(2))
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
        corrupt_image(image, name, 3, derive_corruption_key(*place, name, 3)).tobytes()
        for place in ((0, 0), (0, 1), (1, 0))
    ]
    assert len(set(versions)) == 3


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_turns_the_given_share_to_black_and_white(severity):
    grey = np.full((200, 200, 3), 0.5)
    noisy = _impulse_noise(grey, severity, np.random.default_rng(severity))
    amount = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    for extreme in (0.0, 1.0):
        assert (noisy == extreme).mean() == pytest.approx(amount / 2, abs=0.004)
    assert (noisy == 0.5).mean() == pytest.approx(1 - amount, abs=0.006)


def slow_glass_blur(image, severity, generator):
    """The published assignment, pixel by pixel: both sides are views of one array, so that the neighbour is copied."""
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
                values[row, column], values[other] = values[other], values[row, column]
    return blur(values)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_glass_blur_is_blur_copy_blur(severity):
    image = picture(seed=severity) / 255
    ours = _glass_blur(image, severity, np.random.default_rng(2))
    slow = slow_glass_blur(image, severity, np.random.default_rng(2))
    # A value at the edge of two grey levels may be cut to either.
    assert np.abs(ours - slow).max() < 1.5 / 255
    assert np.abs(ours - slow).mean() < 1e-4


def slow_elastic_transform(image, severity, generator):
    """The published steps with scikit-image's blur; an affine map and a look at the displaced place by hand."""
    from skimage.filters import gaussian
    from skimage.transform import AffineTransform, warp

    side = image.shape[0]
    strength, smoothness, reach = (
        np.array([(2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)])
        * 244 * min(side / 224, 1)
    )[severity - 1]  # fmt: skip
    middle, third = side // 2, side // 3
    points = np.array([[1, 1], [1, -1], [-1, -1]]) * third + middle
    moved = points + generator.uniform(-reach, reach, (3, 2))
    # scikit-image's map goes from the result back to the image.
    bent = warp(image, AffineTransform.from_estimate(moved, points), order=1, mode="reflect")
    dy, dx = (
        strength * gaussian(generator.uniform(-1, 1, (side, side)), smoothness, mode="reflect", truncate=3)
        for _ in range(2)
    )
    mirrored = np.pad(bent, ((side, side), (side, side), (0, 0)), mode="symmetric")
    result = np.empty_like(image)
    for i in range(side):
        for j in range(side):
            y, x = i + dy[i, j] + side, j + dx[i, j] + side
            top, left = int(np.floor(y)), int(np.floor(x))
            down, right = y - top, x - left
            result[i, j] = (
                (1 - down) * ((1 - right) * mirrored[top, left] + right * mirrored[top, left + 1])
                + down * ((1 - right) * mirrored[top + 1, left] + right * mirrored[top + 1, left + 1])
            )  # fmt: skip
    return result


@needs_package
@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("side", [64, 240])
def test_elastic_transform_is_an_affine_map_and_a_smooth_displacement(severity, side):
    smooth = picture(side, side)
    smooth = (
        np.float64(Image.fromarray(smooth).resize((side // 8, side // 8)).resize((side, side), Image.BICUBIC)) / 255
    )
    ours = _elastic_transform(smooth, severity, np.random.default_rng(severity))
    slow = slow_elastic_transform(smooth, severity, np.random.default_rng(severity))
    # OpenCV's map knows 32 places between two pixels.
    assert np.abs(ours - slow).mean() < 1 / 255
    assert np.abs(ours - smooth).mean() > 5 * np.abs(ours - slow).mean()


@needs_package
def test_elastic_transform_is_as_strong_as_the_files_of_imagenet_c():
    # Mean change in grey levels; the published script has 37.0, 48.6, 17.1, 17.4, 18.5 on four other photographs.
    from skimage import data

    change = np.zeros(5)
    for photograph in (data.astronaut(), data.coffee(), data.chelsea()):
        top, left = (side // 2 - 112 for side in photograph.shape[:2])
        crop = photograph[top : top + 224, left : left + 224]
        for severity in SEVERITIES:
            for key in range(3):
                corrupted = corrupt_image(crop, "elastic_transform", severity, key)
                change[severity - 1] += np.abs(corrupted / 1.0 - crop).mean() / 9
    ratio = change / change[3]
    assert ratio == pytest.approx(np.array([37.0, 48.6, 17.1, 17.4, 18.5]) / 17.4, rel=0.2)


def test_fog_keeps_the_brightest_value_as_its_bound_and_gets_thicker():
    image = picture() / 255
    left = []
    for severity in SEVERITIES:
        foggy = _fog(image, severity, np.random.default_rng(1))
        assert foggy.max() <= image.max() + 1e-12
        left.append(image.max() / (image.max() + (1.5, 2.0, 2.5, 2.5, 3.0)[severity - 1]))
        # What is left of the picture is its share of the sum.
        assert np.std(foggy - foggy.mean(axis=2, keepdims=True)) == pytest.approx(
            left[-1] * np.std(image - image.mean(axis=2, keepdims=True)), rel=1e-9
        )
    assert left == sorted(left, reverse=True)
    assert _fog(np.zeros((32, 40, 3)), 3, np.random.default_rng(0)).max() == 0


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
            corrupt_image(*arguments)
    corruptions.require_package.cache_clear()
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(ImportError, match="pip install imagecorruptions=="):
        corrupt_image(image, "snow", 1, 0)
    corruptions.require_package.cache_clear()


def slow_plasma(size, decay, generator):
    """Point by point from the definition, drawing in the same order."""
    heights = np.zeros((size, size))
    step, spread = size, 1.0
    while step > 1:
        half, count = step // 2, size // step
        for sites in ("centre", "column", "row"):
            noise = generator.uniform(-spread, spread, (count, count))
            new = {}
            for i in range(count):
                for j in range(count):
                    row = i * step + (half if sites in ("centre", "column") else 0)
                    column = j * step + (half if sites in ("centre", "row") else 0)
                    if sites == "centre":
                        around = [(-half, -half), (-half, half), (half, -half), (half, half)]
                    else:
                        around = [(-half, 0), (half, 0), (0, -half), (0, half)]
                    values = [heights[(row + a) % size, (column + b) % size] for a, b in around]
                    new[row, column] = sum(values) / 4 + noise[i, j]
            for place, value in new.items():
                heights[place] = value
        step, spread = half, spread / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize("decay", [1.4, 4.0])
def test_heights_are_those_of_a_loop_over_points(decay):
    ours = _plasma(16, decay, np.random.default_rng(5))
    assert np.allclose(ours, slow_plasma(16, decay, np.random.default_rng(5)), atol=1e-12)
    assert ours.min() == 0
    assert ours.max() == 1


def test_more_decay_is_smoother_and_only_powers_of_two_can_be_halved():
    rough, smooth = (_plasma(64, decay, np.random.default_rng(1)) for decay in (1.4, 4.0))
    assert np.abs(np.diff(smooth, axis=0)).mean() < np.abs(np.diff(rough, axis=0)).mean() / 2
    assert _plasma(1, 2.0, np.random.default_rng(0)).tolist() == [[0.0]]
    with pytest.raises(ValueError, match="power of two"):
        _plasma(24, 2.0, np.random.default_rng(0))


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
        crop = transform.without_normalisation()(images.load_image(index))
        pixels = (crop * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        expected = corrupt_image(pixels, "impulse_noise", 4, derive_corruption_key(9, index, "impulse_noise", 4))
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
        assert torch.allclose(
            cell[index]["pixel_values"], (torch.from_numpy(expected).permute(2, 0, 1) / 255 - mean) / std
        )
    with pytest.raises(ValueError, match="'rain' is unknown"):
        Corruption("rain", 1, 0)


@pytest.mark.parametrize("name", BENCHMARK_CORRUPTIONS)
def test_what_a_network_of_one_channel_sees_is_the_corrupted_grey_picture(images, name):
    transform = EvaluationTransform(32, mean=(0.4,), std=(0.2,))
    seen = ChangedDataset(images, transform, Corruption(name, 4, seed=9))[0]["pixel_values"]
    crop = (transform.without_normalisation()(images.load_image(0)) * 255).round().to(torch.uint8)
    rgb = np.repeat(crop.permute(1, 2, 0).numpy(), 3, axis=2)
    corrupted = corrupt_image(rgb, name, 4, derive_corruption_key(9, 0, name, 4))
    grey = np.asarray(Image.fromarray(corrupted).convert("L"), dtype=np.float32)
    assert seen.shape == (1, 32, 32)
    assert np.abs((seen[0].numpy() * 0.2 + 0.4) * 255 - grey).max() < 1.01  # Pillow rounds


class AddWatermark:
    """Stands in for the official package's transform: a called module of one argument, the image size."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, view: torch.Tensor) -> torch.Tensor:
        assert view.shape == (3, self.image_size, self.image_size)
        assert 0 <= view.min() <= view.max() <= 1
        marked = view.clone()
        marked[:, 0, 0] = 1.0
        return marked


def test_the_mark_is_drawn_between_crop_and_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imagenet_w", SimpleNamespace(AddWatermark=AddWatermark))
    _watermark.cache_clear()
    tree = write_original("imagenet-1k", tmp_path)
    marked = load_dataset(DatasetChoice("imagenet-w", data_dir=str(tmp_path)), "test")
    clean = load_dataset(DatasetChoice("imagenet-1k", data_dir=str(tmp_path)), "test")
    assert marked.labels.tolist() == tree.labels["test"]
    assert marked.description.fingerprint != clean.description.fingerprint
    transform = EvaluationTransform(8, 8)
    ours, plain = (EvaluationDataset(images, transform)[0]["pixel_values"] for images in (marked, clean))
    white = (1 - torch.tensor(transform.mean)) / torch.tensor(transform.std)
    assert torch.allclose(ours[:, 0, 0], white)
    assert torch.equal(ours[:, 1:], plain[:, 1:])
    grey = EvaluationTransform(8, 8, mean=(0.4,), std=(0.2,))
    assert torch.allclose(EvaluationDataset(marked, grey)[0]["pixel_values"][:, 0, 0], torch.tensor(0.6 / 0.2))
    assert marked.load_image(0).tobytes() == clean.load_image(0).tobytes()
    _watermark.cache_clear()


def test_without_the_package_of_the_watermark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imagenet_w", None)
    write_original("imagenet-1k", tmp_path)
    with pytest.raises(ImportError, match="pip install imagenet-w"):
        load_dataset(DatasetChoice("imagenet-w", data_dir=str(tmp_path)), "test")
