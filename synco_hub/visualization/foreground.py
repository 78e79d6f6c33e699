"""What stands out from its ground: the patch tokens cut in two where they are least alike.

Source: TokenCut (Wang et al., 2022): a graph joins patches whose tokens are similar, its normalised cut is the second
eigenvector of the graph Laplacian, and of the cut's two sides the one that holds the eigenvector's largest entry is
the object. Where TokenCut reads the keys of DINO's last block, the tokens of any model are read here, so they are
centred first: tokens of many networks share a large common part, which would join every patch with every other.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SIMILARITY_THRESHOLD = 0.2
_WEAK_LINK = 1e-5


def foreground_mask(tokens: Tensor, threshold: float = SIMILARITY_THRESHOLD, centred: bool = True) -> Tensor:
    """The patches of the object that stands out most.

    Args:
        tokens: Patch tokens. Shape: (batch, rows, columns, dim).
        threshold: Cosine similarity from which two patches are joined, in (-1, 1); TokenCut's is 0.2.
        centred: Whether to subtract each image's mean token first; TokenCut, which reads keys, does not.

    Returns:
        True on the object, one connected region an image (4-neighbourhood). Shape: (batch, rows, columns).

    Raises:
        ValueError: If the threshold is out of range, or there are fewer than two patches.
    """
    if not -1 < threshold < 1:
        raise ValueError(f"threshold={threshold} is not in (-1, 1): it is a cosine similarity, TokenCut's is 0.2")
    if tokens.shape[1] * tokens.shape[2] < 2:
        raise ValueError("one patch cannot be cut in two: use a larger image or smaller patches")
    flat = tokens.double().flatten(1, 2)  # (batch, patches, dim)
    if centred:
        flat = flat - flat.mean(dim=1, keepdim=True)
    directions = F.normalize(flat, dim=-1)
    vector = _second_eigenvector(directions @ directions.transpose(1, 2) > threshold)
    side = vector > vector.mean(dim=1, keepdim=True)
    seed = vector.abs().argmax(dim=1, keepdim=True)
    side = torch.where(side.gather(1, seed), side, ~side)  # the side that holds the seed
    at_seed = torch.zeros_like(side).scatter_(1, seed, torch.ones_like(seed, dtype=torch.bool))
    shape = tokens.shape[1:3]
    return connected_region(side.unflatten(1, shape), at_seed.unflatten(1, shape))


def _second_eigenvector(joined: Tensor) -> Tensor:
    """Of (D - W) v = e D v, the v of the second smallest e. Shape: (batch, patches, patches) to (batch, patches)."""
    weights = torch.where(joined, 1.0, _WEAK_LINK).double()
    root = weights.sum(dim=2).sqrt()
    scaled = weights / (root[:, :, None] * root[:, None, :])
    _, vectors = torch.linalg.eigh(scaled)  # ascending: the Laplacian's smallest are this matrix's largest
    vector: Tensor = vectors[:, :, -2] / root
    return vector


def connected_region(allowed: Tensor, seed: Tensor) -> Tensor:
    """The part of a mask that is connected with its seed, by steps to the four neighbours.

    Args:
        allowed: The mask. Shape: (batch, rows, columns).
        seed: True where to start. Shape: (batch, rows, columns).

    Returns:
        Shape: (batch, rows, columns).
    """
    region = seed & allowed
    while True:
        padded = F.pad(region, (1, 1, 1, 1))
        grown = padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1] | padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
        grown = (grown | region) & allowed
        if torch.equal(grown, region):
            return region
        region = grown
