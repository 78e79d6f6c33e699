import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.fractals.drawing import _NAMED_CODES, FractalCode, Nuisance, fractal_code, render_fractals

STILL = Nuisance(
    turn_degrees=0, stretch=0, shift=0, tilt_degrees=0, fill=(0.9, 0.9), dark_probability=1.0, contrast=0.5
)


def luminance(images: np.ndarray) -> np.ndarray:
    return images @ np.array([0.299, 0.587, 0.114])


def test_an_image_depends_on_class_and_instance_alone() -> None:
    together = render_fractals(3, range(70), 16)
    assert together.shape == (70, 16, 16, 3)
    assert together.dtype == np.uint8
    assert np.array_equal(render_fractals(3, [69, 5, 64], 16), together[[69, 5, 64]])
    assert len(np.unique(together.reshape(70, -1), axis=0)) == 70
    assert not np.array_equal(render_fractals(4, [5], 16)[0], together[5])


def test_without_deformation_the_drawn_shape_is_the_attractor() -> None:
    # Slow way: the textbook chaos game, scaled into the same box, drawn point by point.
    generator = np.random.default_rng(0)
    for class_index in (0, 7, 8):
        maps = fractal_code(class_index).maps
        x = y = 0.0
        points = []
        for choice in generator.integers(0, len(maps), 40_000):
            a, b, c, d, e, f = maps[choice]
            x, y = a * x + b * y + e, c * x + d * y + f
            points.append((x, y))
        cloud = np.array(points[100:])
        low, extent = cloud.min(0), np.ptp(cloud, axis=0)
        size = 48
        images = luminance(render_fractals(class_index, range(6), size, STILL))
        for image in images:
            figure = image > np.median(image) + 40 if class_index == 8 else image > 100
            rows, columns = np.flatnonzero(figure.any(1)), np.flatnonzero(figure.any(0))
            height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
            assert max(height, width) == pytest.approx(0.9 * size, abs=2.5)
            assert height / width == pytest.approx(extent[1] / extent[0], abs=0.12)
            unit = (cloud - low) / extent
            cell_x = np.clip((unit[:, 0] * width).astype(int), 0, width - 1)
            cell_y = np.clip(((1 - unit[:, 1]) * height).astype(int), 0, height - 1)
            expected = np.zeros((height, width), dtype=bool)
            expected[cell_y, cell_x] = True
            drawn = figure[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            agreement = max((drawn & shape).sum() / (drawn | shape).sum() for shape in (expected, expected[:, ::-1]))
            assert agreement > 0.5


@pytest.mark.parametrize("dark_probability", [0.0, 0.5, 1.0])
def test_figure_and_ground_stand_apart_in_the_polarity_asked_for(dark_probability: float) -> None:
    for class_index in (0, 4):
        nuisance = Nuisance(dark_probability=dark_probability)
        images = luminance(render_fractals(class_index, range(60), 32, nuisance)) / 255
        ground = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1)  # the corners
        far = np.abs(images - ground[:, None, None]).max(axis=(1, 2))
        assert far.min() > 0.2
        assert (ground < 0.5).mean() == pytest.approx(dark_probability, abs=0.2 if dark_probability == 0.5 else 0.0)


def test_saturation_is_the_strength_of_the_colour() -> None:
    spread = [
        np.ptp(render_fractals(4, range(10), 16, Nuisance(saturation=strength)).astype(int), axis=-1).mean()
        for strength in (0.0, 0.25, 1.0)
    ]
    assert spread[0] == 0
    assert 0 < 2 * spread[1] < spread[2]


def test_colour_says_nothing_about_the_class() -> None:
    means = np.stack([render_fractals(c, range(80), 16).mean((1, 2)) for c in range(6)])  # (classes, images, 3)
    between = means.mean(1).std(0)
    within = means.std(1).mean(0)
    assert (between < within).all()


def test_instances_of_a_class_are_more_alike_in_shape_than_classes() -> None:
    silhouettes = []
    for class_index in range(10):
        images = luminance(render_fractals(class_index, range(30), 32, Nuisance(dark_probability=1.0)))
        silhouettes.append((images > images.mean((1, 2), keepdims=True)).reshape(30, -1))
    bank, queries = np.concatenate([s[:20] for s in silhouettes]), np.concatenate([s[20:] for s in silhouettes])
    overlap = (queries[:, None] == bank[None]).mean(-1)
    predicted = np.repeat(np.arange(10), 20)[overlap.argmax(1)]
    assert (predicted == np.repeat(np.arange(10), 10)).mean() > 0.4


@pytest.mark.parametrize("size", [8, 33, 64])
def test_any_size(size: int, tmp_path: Path) -> None:
    image = Image.fromarray(render_fractals(12, [1], size)[0])
    assert image.size == (size, size)
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 8


def test_the_same_figure_at_two_sizes() -> None:
    small, large = (luminance(render_fractals(1, range(8), size)) for size in (32, 64))
    shrunk = large.reshape(8, 32, 2, 32, 2).mean((2, 4))
    for a, b in zip(small, shrunk, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.8


def test_too_small() -> None:
    with pytest.raises(ValueError, match="size 4"):
        render_fractals(0, [0], 4)
    assert render_fractals(0, [], 8).shape == (0, 8, 8, 3)


def attractor(code: FractalCode, count: int = 20_000, seed: int = 0) -> np.ndarray:
    """The textbook chaos game, point after point."""
    generator = np.random.default_rng(seed)
    maps = np.array(code.maps)
    chosen = generator.choice(len(maps), size=count + 50, p=np.array(code.weights) / sum(code.weights))
    x, y, points = 0.0, 0.0, []
    for a, b, c, d, e, f in maps[chosen].tolist():
        x, y = a * x + b * y + e, c * x + d * y + f
        points.append((x, y))
    return np.array(points[50:])


def box_dimension(points: np.ndarray) -> float:
    unit = (points - points.min(0)) / np.ptp(points, axis=0).max()
    counts = [len(np.unique(np.floor(unit * cells), axis=0)) for cells in (8, 16, 32)]
    return float(np.polyfit(np.log([8, 16, 32]), np.log(counts), 1)[0])


@pytest.mark.parametrize("index", range(40))
def test_every_code_is_a_contraction(index: int) -> None:
    code = fractal_code(index)
    assert len(code.maps) == len(code.weights)
    assert min(code.weights) > 0
    for a, b, c, d, *_ in code.maps:
        # Eigenvalues rather than norms: a contraction in some norm is enough for a bounded attractor.
        assert np.abs(np.linalg.eigvals(np.array([[a, b], [c, d]]))).max() < 1
    assert np.abs(attractor(code, 2000)).max() < 50


@pytest.mark.parametrize(
    ("name", "dimension"),
    [
        ("sierpinski_triangle", math.log(3) / math.log(2)),
        ("sierpinski_carpet", math.log(8) / math.log(3)),
        ("box_fractal", math.log(5) / math.log(3)),
        ("pentaflake", math.log(6) / math.log((3 + math.sqrt(5)) / 2)),
    ],
)
def test_self_similar_shapes_have_their_known_dimension(name: str, dimension: float) -> None:
    code = next(code for code in _NAMED_CODES if code.name == name)
    assert box_dimension(attractor(code, 40_000)) == pytest.approx(dimension, abs=0.12)


def test_names_are_unique_and_indices_fixed() -> None:
    codes = [fractal_code(index) for index in range(100)]
    assert len({code.name for code in codes}) == 100
    assert len({code.maps for code in codes}) == 100
    assert codes == [fractal_code(index) for index in range(100)]
    assert codes[0].name == "sierpinski_triangle"
    assert codes[10].name == "drawn_010"


def test_drawn_shapes_are_neither_dust_nor_a_thread() -> None:
    for index in range(10, 30):
        assert 1.0 < box_dimension(attractor(fractal_code(index), 8000)) < 2.05
