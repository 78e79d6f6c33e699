"""Random heights by the diamond-square algorithm: what fog is made of.

Source: Fournier, Fussell and Carpenter, "Computer rendering of stochastic models" (1982).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Heights = npt.NDArray[np.float64]


def plasma(size: int, decay: float, generator: np.random.Generator) -> Heights:
    """A square of heights that repeats at its edges.

    Starting from one corner, every square gets its centre and every diamond its middle: the mean of its four corners
    and a random height. From scale to scale the heights shrink by the decay.

    Args:
        size: Side, a power of two.
        decay: How much smaller the random heights are at half the distance, above 1: 2 is smooth, 1.4 is rough.
        generator: Draws.

    Returns:
        Heights in [0, 1], both ends reached (all 0 for size 1). Shape: (size, size).

    Raises:
        ValueError: If the side is no power of two.
    """
    if size < 1 or size & (size - 1):
        raise ValueError(f"a plasma of side {size}: squares are halved down to 1, so give a power of two")
    heights = np.zeros((size, size))
    step, spread = size, 1.0
    while step > 1:
        half = step // 2
        corners = heights[::step, ::step]
        across = corners + np.roll(corners, -1, axis=0)
        centres = _displaced(across + np.roll(across, -1, axis=1), spread, generator)
        heights[half::step, half::step] = centres
        # A diamond's middle lies between two corners and two centres.
        below = corners + np.roll(corners, -1, axis=0) + centres + np.roll(centres, 1, axis=1)
        heights[half::step, ::step] = _displaced(below, spread, generator)
        beside = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=0)
        heights[::step, half::step] = _displaced(beside, spread, generator)
        step, spread = half, spread / decay
    heights -= heights.min()
    return heights / max(float(heights.max()), np.finfo(np.float64).tiny)


def _displaced(sums: Heights, spread: float, generator: np.random.Generator) -> Heights:
    displaced: Heights = sums / 4 + generator.uniform(-spread, spread, sums.shape)
    return displaced
