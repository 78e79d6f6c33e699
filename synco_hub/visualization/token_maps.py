"""The patch tokens of a model on their grid: their components as colours, their likeness, and what stands out.

Source of the foreground: TokenCut (Wang et al., 2022): a graph joins patches whose tokens are similar, its normalised
cut is the second eigenvector of the graph Laplacian, and of the cut's two sides the one that holds the eigenvector's
largest entry is the object. Where TokenCut reads the keys of DINO's last block, the tokens of any model are read here,
so they are centred first: tokens of many networks share a large common part, which would join every patch with every
other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import eval_mode
from synco_hub.visualization.recorded_attention import attends_in_windows, find_patch_grid, forward_any_size

SIMILARITY_THRESHOLD = 0.2
_WEAK_LINK = 1e-5
# A component is drawn from dark to bright over this many standard deviations to either side of its mean.
_DRAWN_DEVIATIONS = 2.5


def token_map(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """The final patch tokens of a ViT, or the final feature map of a Swin, after the final norm.

    Args:
        model: A ViT or Swin of this package, timm or transformers, with or without a head.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).

    Returns:
        float32. Shape: (batch, rows, columns, dim).

    Raises:
        ValueError: If the model cannot take this size, or its tokens do not lie on a grid.
    """
    network: Any = find_feature_network(model)
    with eval_mode(network), torch.no_grad():
        output = forward_any_size(network, pixel_values)
    tokens: Tensor = output if isinstance(output, Tensor) else output.last_hidden_state
    tokens = tokens.float()
    # Convolutional networks put channels first; a Swin of timm says that it does not.
    channels_last = isinstance(output, Tensor) and str(getattr(network, "output_fmt", "NCHW")) == "NHWC"
    if tokens.ndim == 4 and not channels_last:
        return tokens.permute(0, 2, 3, 1)
    return lay_tokens_on_grid(tokens, network, pixel_values)


def principal_colours(tokens: Tensor) -> Tensor:
    """The first three principal components of patch tokens as red, green and blue.

    All images of the batch share one set of components, so equal colours mean like patches across them. The sign of
    each component, which linear algebra leaves open, is chosen so that its distribution leans to the bright side
    (third moment positive); neither sign nor colour depends on the scale of the tokens or on a rotation of their
    axes.

    Args:
        tokens: Shape: (batch, rows, columns, dim).

    Returns:
        Values in [0, 1]; a component that does not exist (fewer than four tokens, all tokens equal) is 0.5.
        Shape: (batch, rows, columns, 3).
    """
    flat = tokens.double().flatten(0, 2)
    centred = flat - flat.mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    scores = left[:, :3] * singular[:3]  # (tokens, up to 3)
    lean = scores.pow(3).sum(dim=0)
    # A symmetric distribution leans to neither side: then the token that lies farthest out is the bright one.
    farthest = scores.gather(0, scores.abs().argmax(dim=0, keepdim=True))[0]
    level = 1e-6 * scores.abs().pow(3).sum(dim=0)
    sign = torch.where(lean.abs() > level, lean, farthest).sign()
    deviation = scores.square().mean(dim=0).sqrt()
    real = deviation > 1e-9 * max(float(flat.abs().max()), 1e-30)
    relative = torch.where(real, scores * sign / deviation.clamp_min(1e-300), 0.0)
    colours = (0.5 + relative / (2 * _DRAWN_DEVIATIONS)).clamp(0, 1)
    colours = F.pad(colours, (0, 3 - colours.shape[1]), value=0.5)
    return colours.float().unflatten(0, tokens.shape[:3])


def patch_similarity(tokens: Tensor, row: int, column: int) -> Tensor:
    """Cosine similarity of one patch to every patch of its image.

    Args:
        tokens: Shape: (batch, rows, columns, dim).
        row: Row of the patch, from the top.
        column: Column of the patch, from the left.

    Returns:
        Values in [-1, 1], 1 at the patch itself. Shape: (batch, rows, columns).

    Raises:
        ValueError: If the patch is outside the grid.
    """
    rows, columns = tokens.shape[1:3]
    if not (0 <= row < rows and 0 <= column < columns):
        raise ValueError(
            f"patch ({row}, {column}) is outside the {rows}x{columns} grid: rows and columns count from 0"
        )
    directions = F.normalize(tokens, dim=-1)
    return torch.einsum("brcd,bd->brc", directions, directions[:, row, column]).clamp(-1, 1)


def class_similarity(tokens: Tensor, places: Sequence[tuple[int, int]], classes: Sequence[int]) -> Tensor:
    """How alike each patch is to the most similar of each class's chosen patches: one nearest neighbour votes.

    Args:
        tokens: Of one image. Shape: (1, rows, columns, dim).
        places: Row and column of each chosen patch.
        classes: Class of each, from 0.

    Returns:
        Cosine similarities, -1 for a class without a patch. Shape: (classes, rows, columns).
    """
    found = tokens.new_full((max(classes) + 1, *tokens.shape[1:3]), -1.0)
    for (row, column), number in zip(places, classes, strict=True):
        found[number] = torch.maximum(found[number], patch_similarity(tokens, row, column)[0])
    return found


def lay_tokens_on_grid(tokens: Tensor, network: nn.Module, pixel_values: Tensor) -> Tensor:
    """Bring a sequence of tokens to its grid, prefix tokens left out.

    Args:
        tokens: Shape: (batch, tokens, dim), or already (batch, rows, columns, dim).
        network: The backbone they come from.
        pixel_values: What it was given. Shape: (batch, channels, height, width).

    Returns:
        Shape: (batch, rows, columns, dim).
    """
    if tokens.ndim == 4:
        return tokens
    rows, columns = find_patch_grid(network, pixel_values)
    if attends_in_windows(network):
        # Every stage of a Swin but the first halves the map, odd sides rounded up.
        while rows * columns > tokens.shape[1] and rows * columns > 1:
            rows, columns = -(-rows // 2), -(-columns // 2)
    if tokens.shape[1] < rows * columns:
        raise ValueError(
            f"{type(network).__name__} gives {tokens.shape[1]} tokens, fewer than its {rows}x{columns} patches: "
            "give a model that keeps all its patches"
        )
    return tokens[:, -rows * columns :].unflatten(1, (rows, columns))


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
    return find_connected_region(side.unflatten(1, shape), at_seed.unflatten(1, shape))


def _second_eigenvector(joined: Tensor) -> Tensor:
    """Of (D - W) v = e D v, the v of the second smallest e. Shape: (batch, patches, patches) to (batch, patches)."""
    weights = torch.where(joined, 1.0, _WEAK_LINK).double()
    root = weights.sum(dim=2).sqrt()
    scaled = weights / (root[:, :, None] * root[:, None, :])
    _, vectors = torch.linalg.eigh(scaled)  # ascending: the Laplacian's smallest are this matrix's largest
    vector: Tensor = vectors[:, :, -2] / root
    return vector


def find_connected_region(allowed: Tensor, seed: Tensor) -> Tensor:
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
