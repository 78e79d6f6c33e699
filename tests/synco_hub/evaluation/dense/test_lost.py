"""Against numpy loops and scipy's regions; planted objects are found."""

import numpy as np
import pytest
import scipy.ndimage
import torch

from synco_hub.evaluation.dense.lost import lost_mask


def by_hand(keys, k_patches):
    rows, columns, _ = keys.shape
    flat = keys.reshape(rows * columns, -1)
    count = len(flat)
    correlation = np.array([[float(np.dot(flat[i], flat[j])) for j in range(count)] for i in range(count)])
    degree = [sum(correlation[i, j] > 0 for j in range(count) if j != i) for i in range(count)]
    order = sorted(range(count), key=lambda i: (degree[i], i))
    seed = order[0]
    voters = [i for i in order[:k_patches] if correlation[seed, i] > 0]
    mask = np.array([sum(correlation[v, i] for v in voters) > 0 for i in range(count)]).reshape(rows, columns)
    regions, _ = scipy.ndimage.label(mask)
    return regions == regions.flat[seed]


@pytest.mark.parametrize("k_patches", [1, 10, 100])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_definition(seed, k_patches):
    keys = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert np.array_equal(lost_mask(keys, k_patches).numpy(), by_hand(keys.numpy(), k_patches))


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_object_is_found(seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(12, 14, dtype=torch.bool)
    mask[3:8, 4:9] = True
    direction = torch.randn(32, generator=generator)
    keys = torch.where(mask[..., None], direction, -direction) + 0.2 * torch.randn(12, 14, 32, generator=generator)
    assert torch.equal(lost_mask(keys), mask)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="k_patches=0"):
        lost_mask(torch.randn(3, 3, 4), 0)
