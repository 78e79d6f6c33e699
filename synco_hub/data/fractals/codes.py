"""Which fractal is which class: iterated function systems, ten with a name and any number of drawn ones.

An iterated function system is a handful of affine contractions (x, y) -> (a x + b y + e, c x + d y + f). The one set
that equals the union of its own images, the attractor, is the shape; the coefficients are the class.
"""

import math
from dataclasses import dataclass

from synco_hub.data.samplers import random_key, sample_uniforms

AffineMap = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class FractalCode:
    """An iterated function system.

    Attributes:
        name: Class name.
        maps: The contractions as (a, b, c, d, e, f).
        weights: How often each map is applied; any positive scale.
    """

    name: str
    maps: tuple[AffineMap, ...]
    weights: tuple[float, ...]


def _similarity(scale: float, degrees: float, x_offset: float, y_offset: float) -> AffineMap:
    cosine, sine = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return (cosine, -sine, sine, cosine, x_offset, y_offset)


def _grid_of_thirds(cells: list[tuple[int, int]]) -> tuple[AffineMap, ...]:
    return tuple(_similarity(1 / 3, 0, column / 3, row / 3) for column, row in cells)


def _equal(name: str, maps: tuple[AffineMap, ...]) -> FractalCode:
    return FractalCode(name, maps, (1.0,) * len(maps))


# Five pentagons on the corners and a turned one in the middle, each shrunk by 1 / (1 + golden ratio).
_PENTAGON_SCALE = 2 / (3 + math.sqrt(5))
_PENTAFLAKE = (
    *(
        _similarity(
            _PENTAGON_SCALE,
            0,
            math.cos(math.radians(90 + 72 * corner)) * (1 - _PENTAGON_SCALE),
            math.sin(math.radians(90 + 72 * corner)) * (1 - _PENTAGON_SCALE),
        )
        for corner in range(5)
    ),
    _similarity(_PENTAGON_SCALE, 180, 0, 0),
)

NAMED_CODES: tuple[FractalCode, ...] = (
    _equal(
        "sierpinski_triangle",
        (_similarity(0.5, 0, 0, 0), _similarity(0.5, 0, 0.5, 0), _similarity(0.5, 0, 0.25, math.sqrt(3) / 4)),
    ),
    # Barnsley, "Fractals Everywhere" (1988).
    FractalCode(
        "barnsley_fern",
        (
            (0.0, 0.0, 0.0, 0.16, 0.0, 0.0),
            (0.85, 0.04, -0.04, 0.85, 0.0, 1.6),
            (0.2, -0.26, 0.23, 0.22, 0.0, 1.6),
            (-0.15, 0.28, 0.26, 0.24, 0.0, 0.44),
        ),
        (0.02, 0.83, 0.075, 0.075),
    ),
    _equal("heighway_dragon", ((0.5, -0.5, 0.5, 0.5, 0.0, 0.0), (-0.5, -0.5, 0.5, -0.5, 1.0, 0.0))),
    _equal("levy_curve", ((0.5, -0.5, 0.5, 0.5, 0.0, 0.0), (0.5, 0.5, -0.5, 0.5, 0.5, 0.5))),
    FractalCode(
        "maple_leaf",
        (
            (0.14, 0.01, 0.0, 0.51, -0.08, -1.31),
            (0.43, 0.52, -0.45, 0.5, 1.49, -0.75),
            (0.45, -0.49, 0.47, 0.47, -1.62, -0.74),
            (0.49, 0.0, 0.0, 0.51, 0.02, 1.62),
        ),
        (0.1, 0.35, 0.35, 0.2),
    ),
    FractalCode(
        "tree",
        (
            (0.0, 0.0, 0.0, 0.5, 0.0, 0.0),
            (0.42, -0.42, 0.42, 0.42, 0.0, 0.2),
            (0.42, 0.42, -0.42, 0.42, 0.0, 0.2),
            (0.1, 0.0, 0.0, 0.1, 0.0, 0.2),
        ),
        (0.08, 0.4, 0.4, 0.12),
    ),
    FractalCode(
        "spiral",
        (
            (0.787879, -0.424242, 0.242424, 0.859848, 1.758647, 1.408065),
            (-0.121212, 0.257576, 0.151515, 0.053030, -6.721654, 1.377236),
            (0.181818, -0.136364, 0.090909, 0.181818, 6.086107, 1.568035),
        ),
        (0.9, 0.05, 0.05),
    ),
    _equal(
        "sierpinski_carpet",
        _grid_of_thirds([(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2), (1, 2), (2, 2)]),
    ),
    _equal("box_fractal", _grid_of_thirds([(0, 0), (2, 0), (1, 1), (0, 2), (2, 2)])),
    _equal("pentaflake", _PENTAFLAKE),
)

_DRAWN_CODES_KEY = 0x46524143  # "FRAC": a fixed seed, because a class must be the same shape in every run


def fractal_code(class_index: int) -> FractalCode:
    """The shape of a class: a named fractal for the first ten, a drawn one for every further index.

    A drawn code has three or four maps of random rotation, shear, reflection and shrinkage (singular values in
    [0.3, 0.7]), whose areas add up to at least 0.6, so that the attractor is neither dust nor a thread.

    Args:
        class_index: 0, 1, 2, …

    Returns:
        The code. The same index always gives the same code.
    """
    if class_index < len(NAMED_CODES):
        return NAMED_CODES[class_index]
    attempt = 0
    while True:
        draws = sample_uniforms(random_key(_DRAWN_CODES_KEY, class_index, attempt), 1 + 4 * 7)
        num_maps = 3 if draws[0] < 0.5 else 4
        rows = [draws[1 + 7 * number : 8 + 7 * number] for number in range(num_maps)]
        areas = [(0.3 + 0.4 * row[0]) * (0.3 + 0.4 * row[1]) for row in rows]
        if sum(areas) >= 0.6:
            return FractalCode(f"drawn_{class_index:03d}", tuple(_drawn_map(row) for row in rows), tuple(areas))
        attempt += 1


def _drawn_map(draws: list[float]) -> AffineMap:
    """One contraction from seven uniforms: rotation · diag(singular values) · rotation, then a shift."""
    first, second = 0.3 + 0.4 * draws[0], (0.3 + 0.4 * draws[1]) * (-1 if draws[2] < 0.5 else 1)
    turn, twist = 2 * math.pi * draws[3], 2 * math.pi * draws[4]
    left = (math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn))
    right = (math.cos(twist), -math.sin(twist), math.sin(twist), math.cos(twist))
    return (
        left[0] * first * right[0] + left[1] * second * right[2],
        left[0] * first * right[1] + left[1] * second * right[3],
        left[2] * first * right[0] + left[3] * second * right[2],
        left[2] * first * right[1] + left[3] * second * right[3],
        2 * draws[5] - 1,
        2 * draws[6] - 1,
    )
