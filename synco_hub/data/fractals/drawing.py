"""Draws coloured fractals: the shape is the class, everything else is chance.

A class is an iterated function system, ten with a name and any number of drawn ones: a handful of affine contractions
(x, y) -> (a x + b y + e, c x + d y + f). The one set that equals the union of its own images, the attractor, is the
shape.

An image is a pure function of (class, instance, size). The instance draws what a good representation must ignore
(position, size, tilt, mirroring, palette, background) and a slight deformation, because no two leaves of a tree are
equal. All images of a call are drawn together: a swarm of points follows the maps of each image, and one histogram
turns the points of all images into pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from synco_hub.data.samplers import derive_random_key, draw_uniforms, sample_uniforms

FRACTAL_VERSION = 2  # part of every cache key: raise it whenever the drawing code changes a pixel

FloatArray = npt.NDArray[np.float32]
AffineMap = tuple[float, float, float, float, float, float]

_SWARM_KEY, _INSTANCE_KEY = 1, 2
_BURN_IN_STEPS, _DRAWN_STEPS = 8, 12
_POINTS_PER_PIXEL = 1.0  # walkers, each drawn once a step
_SUPERSAMPLING = 2
_IMAGES_AT_ONCE = 64
_APPEARANCE_DRAWS = 17
_DEFORMATION_DRAWS = 4


@dataclass(frozen=True)
class FractalCode:
    """An iterated function system: contractions as (a, b, c, d, e, f), and how often each is applied, on any scale."""

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

_NAMED_CODES: tuple[FractalCode, ...] = (
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
    """
    if class_index < len(_NAMED_CODES):
        return _NAMED_CODES[class_index]
    attempt = 0
    while True:
        draws = sample_uniforms(derive_random_key(_DRAWN_CODES_KEY, class_index, attempt), 1 + 4 * 7)
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


@dataclass(frozen=True)
class Nuisance:
    """What varies between two images of one class.

    Attributes:
        turn_degrees: Each map is turned by up to this angle (deformation).
        stretch: Each map shrinks up to this share more or less (deformation).
        shift: Each map is moved by up to this share of the maps' extent (deformation).
        tilt_degrees: The whole figure is turned by up to this angle.
        fill: Smallest and largest side of the figure's bounding box, as a share of the image side.
        dark_probability: How often a bright figure stands on a dark ground rather than the other way round.
        hue_turns: Least and most turns of the colour circle across the image.
        saturation: How strong colours are, 1 for full. Strong ones tell images apart before shapes do: what a network
            of a few minutes' training then learns is colour.
        contrast: Least difference of luminance between figure and ground, in [0, 1].
    """

    turn_degrees: float = 3.0
    stretch: float = 0.03
    shift: float = 0.03
    tilt_degrees: float = 10.0
    fill: tuple[float, float] = (0.5, 1.0)
    dark_probability: float = 1.0
    hue_turns: tuple[float, float] = (0.5, 1.5)
    saturation: float = 0.25
    contrast: float = 0.35


def render_fractals(
    class_index: int, instances: Sequence[int], size: int, nuisance: Nuisance | None = None
) -> npt.NDArray[np.uint8]:
    """Draws instances of one class, none of which depends on the others. Shape: (num_instances, size, size, 3)."""
    if size < 8:
        raise ValueError(
            f"fractal size {size}: a fractal needs at least 8 pixels a side; give --image-size 32 or more."
        )
    nuisance = nuisance or Nuisance()
    code = fractal_code(class_index)
    images = np.empty((len(instances), size, size, 3), dtype=np.uint8)
    for start in range(0, len(instances), _IMAGES_AT_ONCE):
        chunk = instances[start : start + _IMAGES_AT_ONCE]
        keys = np.array(
            [derive_random_key(_INSTANCE_KEY, class_index, instance) for instance in chunk], dtype=np.uint64
        )
        draws = draw_uniforms(keys, _APPEARANCE_DRAWS + _DEFORMATION_DRAWS * len(code.maps))
        linear, shift = _deform_maps(code, draws[:, _APPEARANCE_DRAWS:], nuisance)
        x, y, position = _attractor(code, linear, shift, derive_random_key(_SWARM_KEY, class_index), size)
        x, y = _pose(x, y, draws, nuisance)
        coverage, position = _rasterise(x, y, position, size)
        images[start : start + len(chunk)] = _paint(coverage, position, draws[:, 5:], nuisance)
    return images


def _deform_maps(
    code: FractalCode, draws: npt.NDArray[np.float64], nuisance: Nuisance
) -> tuple[FloatArray, FloatArray]:
    """The maps of each image: those of the code, each turned, stretched and moved a little by uniform draws.

    Shape: (batch, num_maps * 4) to linear parts (batch, num_maps, 2, 2) and shifts (batch, num_maps, 2).
    """
    maps = np.array(code.maps)  # (num_maps, 6)
    linear, shift = maps[:, :4].reshape(-1, 2, 2), maps[:, 4:]
    signed = draws.reshape(len(draws), len(maps), _DEFORMATION_DRAWS) * 2 - 1
    angle = math.radians(nuisance.turn_degrees) * signed[..., 0]
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.stack([cosine, -sine, sine, cosine], axis=-1).reshape(*angle.shape, 2, 2)
    deformed = (1 + nuisance.stretch * signed[..., 1])[..., None, None] * turn @ linear
    # A stretched map must stay a contraction, else the swarm of points flies away.
    largest = np.linalg.norm(deformed, 2, axis=(-2, -1))
    allowed = np.maximum(0.9, np.linalg.norm(linear, 2, axis=(-2, -1)))
    deformed *= np.minimum(1, allowed / np.maximum(largest, 1e-9))[..., None, None]
    moved = shift + nuisance.shift * np.ptp(shift, axis=0).max() * signed[..., 2:]
    return deformed.astype(np.float32), moved.astype(np.float32)


def _attractor(
    code: FractalCode, linear: FloatArray, shift: FloatArray, swarm_key: int, size: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Points on the attractor of each image, by a chaos game that a whole swarm plays.

    In each step the swarm is shuffled and each map moves its fixed share of it. That is the chaos game with
    stratified choices, and it needs no gather of coefficients per point. The shuffles belong to the class, so that an
    image does not depend on which others are drawn with it.

    Returns:
        x, y and the position along the palette, in [0, 1]. Shape of each: (batch, num_points).
    """
    num_walkers = max(1024, round(size * size * _POINTS_PER_PIXEL))
    shares = np.cumsum(np.array(code.weights) / sum(code.weights)) * num_walkers
    edges = [0, *np.round(shares).astype(int).tolist()]
    steps = _BURN_IN_STEPS + _DRAWN_STEPS
    keys = np.array([derive_random_key(swarm_key, step) for step in range(steps)], dtype=np.uint64)
    shuffles = np.argsort(draw_uniforms(keys, num_walkers), axis=1, kind="stable")
    batch, num_maps = linear.shape[:2]
    palette = np.linspace(0, 1, num_maps, dtype=np.float32)
    # Start where every map already points to: at the mean of the maps' fixed points, in effect anywhere.
    x = np.repeat(shift[..., 0].mean(1, keepdims=True), num_walkers, axis=1)
    y = np.repeat(shift[..., 1].mean(1, keepdims=True), num_walkers, axis=1)
    position = np.full((batch, num_walkers), 0.5, dtype=np.float32)
    points = np.empty((3, batch, _DRAWN_STEPS, num_walkers), dtype=np.float32)
    for step in range(steps):
        old_x, old_y, old_position = (values[:, shuffles[step]] for values in (x, y, position))
        for number in range(num_maps):
            share = slice(edges[number], edges[number + 1])
            a, b, c, d = (linear[:, number, row, column, None] for row in (0, 1) for column in (0, 1))
            x[:, share] = a * old_x[:, share] + b * old_y[:, share] + shift[:, number, 0, None]
            y[:, share] = c * old_x[:, share] + d * old_y[:, share] + shift[:, number, 1, None]
            position[:, share] = 0.5 * (old_position[:, share] + palette[number])
        if step >= _BURN_IN_STEPS:
            for axis, values in enumerate((x, y, position)):
                points[axis, :, step - _BURN_IN_STEPS] = values
    drawn = points.reshape(3, batch, -1)
    return drawn[0], drawn[1], drawn[2]


def _pose(
    x: FloatArray, y: FloatArray, draws: npt.NDArray[np.float64], nuisance: Nuisance
) -> tuple[FloatArray, FloatArray]:
    """Mirrors, tilts, scales and places each figure inside the unit square, y pointing down."""
    tilt = (math.radians(nuisance.tilt_degrees) * (2 * draws[:, 0] - 1)).astype(np.float32)[:, None]
    mirror = np.where(draws[:, 1] < 0.5, -1, 1).astype(np.float32)[:, None]
    cosine: FloatArray = np.cos(tilt)
    sine: FloatArray = np.sin(tilt)
    x, y = cosine * mirror * x - sine * y, sine * mirror * x + cosine * y
    low = np.stack([x.min(1), y.min(1)], axis=1)  # (batch, 2)
    extent = np.stack([x.max(1), y.max(1)], axis=1) - low
    fill = nuisance.fill[0] + (nuisance.fill[1] - nuisance.fill[0]) * draws[:, 2]
    scale = (fill / extent.max(1)).astype(np.float32)[:, None]
    free = 1 - extent * scale
    offset = (free * (0.1 + 0.8 * draws[:, 3:5])).astype(np.float32)
    return (x - low[:, :1]) * scale + offset[:, :1], 1 - ((y - low[:, 1:]) * scale + offset[:, 1:])


def _rasterise(x: FloatArray, y: FloatArray, position: FloatArray, size: int) -> tuple[FloatArray, FloatArray]:
    """Turns points into pixels: how much of a pixel the figure covers, and its mean position along the palette.

    Returns:
        Coverage in [0, 1] and palette position in [0, 1]. Shape of each: (batch, size, size).
    """
    batch, fine = len(x), size * _SUPERSAMPLING
    column = np.clip(x * fine, 0, fine - 1).astype(np.int32)
    row = np.clip(y * fine, 0, fine - 1).astype(np.int32)
    cell = ((np.arange(batch, dtype=np.int32)[:, None] * fine + row) * fine + column).ravel()
    counts = np.bincount(cell, minlength=batch * fine * fine).astype(np.float32)
    sums = np.bincount(cell, weights=position.ravel(), minlength=batch * fine * fine).astype(np.float32)
    blocks = (batch, size, _SUPERSAMPLING, size, _SUPERSAMPLING)
    hit_cells = (counts.reshape(batch, -1) > 0).sum(1)
    typical = (x.shape[1] / hit_cells).astype(np.float32).reshape(-1, 1, 1, 1, 1)
    opacity = 1 - np.exp(-counts.reshape(blocks) / (0.7 * typical))
    coverage = np.minimum(1.35 * opacity.mean((2, 4)), 1)
    per_pixel = counts.reshape(blocks).sum((2, 4))
    return coverage, sums.reshape(blocks).sum((2, 4)) / np.maximum(per_pixel, 1)


def _paint(
    coverage: FloatArray, position: FloatArray, draws: npt.NDArray[np.float64], nuisance: Nuisance
) -> npt.NDArray[np.uint8]:
    """Lays the figure over a ground, the hue of both running through the colour circle across the image.

    A colour that is constant over the image would tell two images apart by any crop of them, and a network would learn
    that instead of the shape. A hue that changes from place to place is of no use to it.

    Args:
        coverage: Shape: (batch, size, size).
        position: Along the palette, in [0, 1]. Shape: (batch, size, size).
        draws: Uniforms. Shape: (batch, at least 12).
        nuisance: How far the hue runs, how often the ground is dark, and the least contrast.

    Returns:
        RGB images. Shape: (batch, size, size, 3).
    """
    columns = draws.astype(np.float32).T[:, :, None, None]  # (draws, batch, 1, 1)
    dark = columns[0] < nuisance.dark_probability
    size = coverage.shape[-1]
    figure_axis, ground_axis = (_along(columns[k], size) for k in (1, 2))
    least, most = nuisance.hue_turns
    figure = _rgb(
        columns[3] + (least + (most - least) * columns[4]) * figure_axis + 0.3 * position,
        nuisance.saturation * (0.4 + 0.55 * columns[5]),
        np.where(dark, 0.8 + 0.2 * columns[6], 0.1 + 0.4 * columns[6]),
    )
    shade = columns[7] + (columns[8] - columns[7]) * (ground_axis + 0.5)
    ground = _rgb(
        columns[9] + (least + (most - least) * columns[10]) * ground_axis,
        nuisance.saturation * np.where(dark, 0.4 + 0.5 * columns[11], 0.1 + 0.5 * columns[11]),
        np.where(dark, 0.04 + 0.36 * shade, 0.68 + 0.32 * shade),
    )
    figure = _stretch_contrast(figure, ground, dark, nuisance.contrast)
    image = ground + coverage[..., None] * (figure - ground)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def _along(turns: FloatArray, size: int) -> FloatArray:
    """How far each pixel lies along a random direction, in [-0.5, 0.5].

    Shape: (batch, 1, 1) to (batch, size, size).
    """
    angle = 2 * math.pi * turns
    axis = ((np.arange(size) - (size - 1) / 2) / (size - 1)).astype(np.float32)
    along: FloatArray = (np.cos(angle) * axis + np.sin(angle) * axis[:, None]) / np.float32(math.sqrt(2))
    return along


def _stretch_contrast(
    figure: FloatArray, ground: FloatArray, dark: npt.NDArray[np.bool_], contrast: float
) -> FloatArray:
    """Mixes the figure with white (on a dark ground) or black until its luminance stands off the ground's.

    Shape: (batch, size, size, 3) each; dark (batch, 1, 1).
    """
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    luminance, ground_luminance = figure @ weights, ground @ weights  # (batch, size, size)
    missing = contrast - np.where(dark, luminance - ground_luminance, ground_luminance - luminance)
    reserve = np.where(dark, 1 - luminance, luminance)
    share = np.clip(missing / np.maximum(reserve, 1e-6), 0, 1)[..., None]
    return (figure + share * (dark[..., None] - figure)).astype(np.float32, copy=False)


def _rgb(hue: FloatArray, saturation: FloatArray, value: FloatArray) -> FloatArray:
    """Colours of the HSV cone, hue in turns. Shapes broadcast to (batch, size, size), the result has 3 channels."""
    sector = (np.array([5.0, 3.0, 1.0], dtype=np.float32) + 6 * (hue % 1)[..., None]) % 6
    drop = np.clip(np.minimum(sector, 4 - sector), 0, 1)
    rgb: FloatArray = value[..., None] * (1 - saturation[..., None] * drop)
    return rgb
