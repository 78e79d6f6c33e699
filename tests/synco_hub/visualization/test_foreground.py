"""The mask finds planted objects; the cut is the generalised eigenproblem of scipy; regions are scipy's."""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch

from synco_hub.visualization import foreground_mask


def planted(object_mask: np.ndarray, seed: int, noise: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, 32, generator=generator)
    chosen = directions[torch.from_numpy(object_mask).long()]
    return (chosen + noise * torch.randn(*object_mask.shape, 32, generator=generator))[None]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("common", [0.0, 10.0])
def test_a_planted_object_is_found_also_under_a_common_part_of_all_tokens(seed, common):
    mask = np.zeros((9, 12), dtype=bool)
    mask[2:6, 3:7] = True
    tokens = planted(mask, seed) + common
    assert np.array_equal(foreground_mask(tokens)[0].numpy(), mask)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("centred", [True, False])
def test_the_mask_is_token_cut_by_scipy(seed, centred):
    tokens = torch.randn(1, 5, 6, 4, generator=torch.Generator().manual_seed(seed))
    flat = tokens[0].reshape(30, 4).double().numpy()
    flat = flat - flat.mean(0) if centred else flat
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    weights = np.where(flat @ flat.T > 0.2, 1.0, 1e-5)
    degrees = np.diag(weights.sum(1))
    _, vectors = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 1])
    vector = vectors[:, 0]
    side = vector > vector.mean()
    seed_patch = np.argmax(np.abs(vector))
    side = side if side[seed_patch] else ~side
    regions, _ = scipy.ndimage.label(side.reshape(5, 6))
    expected = regions == regions.flat[seed_patch]
    assert np.array_equal(foreground_mask(tokens, centred=centred)[0].numpy(), expected)


def test_images_of_a_batch_do_not_see_each_other_and_bad_settings_are_refused():
    tokens = torch.cat([torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    together = foreground_mask(tokens)
    for index in range(3):
        assert torch.equal(foreground_mask(tokens[index : index + 1])[0], together[index])
    with pytest.raises(ValueError, match="threshold=1"):
        foreground_mask(tokens, 1.0)
    with pytest.raises(ValueError, match="cannot be cut in two"):
        foreground_mask(tokens[:, :1, :1])
