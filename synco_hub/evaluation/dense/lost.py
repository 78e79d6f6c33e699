"""LOST: the patch least like the others starts an object, the patches like it complete it.

Source: Siméoni et al., "Localizing objects with self-supervised transformers and no labels" (2021), sections 3.2
and 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from synco_hub.visualization.token_maps import connected_region

NUM_SEED_PATCHES = 100


def lost_mask(keys: Tensor, k_patches: int = NUM_SEED_PATCHES) -> Tensor:
    """The patches of one object.

    The seed is the patch with the fewest positively correlated patches (the first of them). Of the `k_patches` with
    the fewest, those positively correlated with the seed vote: a patch belongs to the object if its correlations with
    them sum to more than zero and it is connected with the seed.

    Args:
        keys: Keys of the last block, neither centred nor normalised. Shape: (rows, columns, dim).
        k_patches: How many patches of least degree may vote; the paper's is 100.

    Returns:
        True on the object, one connected region (4-neighbourhood). Shape: (rows, columns).

    Raises:
        ValueError: If `k_patches` is below 1.
    """
    if k_patches < 1:
        raise ValueError(f"k_patches={k_patches}: at least the seed votes; LOST's is 100")
    flat = keys.flatten(0, 1).double()  # (patches, dim)
    correlations = flat @ flat.T
    others = correlations.clone().fill_diagonal_(0)
    least_first = (others > 0).sum(dim=1).sort(stable=True).indices
    seed = int(least_first[0])
    candidates = least_first[:k_patches]
    voters = candidates[correlations[seed, candidates] > 0]
    object_ = correlations[voters].sum(dim=0) > 0
    at_seed = torch.zeros_like(object_)
    at_seed[seed] = True
    shape = keys.shape[:2]
    return connected_region(object_.unflatten(0, shape)[None], at_seed.unflatten(0, shape)[None])[0]
