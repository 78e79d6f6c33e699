import numpy as np
import pytest

from synco_hub.data.corruptions.diamond_square import plasma


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
    ours = plasma(16, decay, np.random.default_rng(5))
    assert np.allclose(ours, slow_plasma(16, decay, np.random.default_rng(5)), atol=1e-12)
    assert ours.min() == 0
    assert ours.max() == 1


def test_more_decay_is_smoother_and_only_powers_of_two_can_be_halved():
    rough, smooth = (plasma(64, decay, np.random.default_rng(1)) for decay in (1.4, 4.0))
    assert np.abs(np.diff(smooth, axis=0)).mean() < np.abs(np.diff(rough, axis=0)).mean() / 2
    assert plasma(1, 2.0, np.random.default_rng(0)).tolist() == [[0.0]]
    with pytest.raises(ValueError, match="power of two"):
        plasma(24, 2.0, np.random.default_rng(0))
