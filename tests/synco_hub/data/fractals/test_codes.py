import math

import numpy as np
import pytest

from synco_hub.data.fractals.codes import NAMED_CODES, FractalCode, fractal_code


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
    code = next(code for code in NAMED_CODES if code.name == name)
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
