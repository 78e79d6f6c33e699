"""Whether a position embedding is the fixed sine-cosine one: no key says so, only its numbers do."""

from __future__ import annotations

from typing import Any

from synco_hub.models.position_embedding_synco import sincos_position_embedding


def has_sincos_position_embedding(embedding: Any) -> bool:
    """Whether a position embedding (1, 1 + grid * grid, dim) is the fixed one, [CLS] zero."""
    if embedding.ndim != 3 or embedding.shape[-1] % 4 or not embedding.numel():
        return False
    grid = round((embedding.shape[1] - 1) ** 0.5)
    if not grid or grid * grid != embedding.shape[1] - 1 or embedding[0, 0].float().abs().max() > 0:
        return False
    fixed = sincos_position_embedding(grid, grid, embedding.shape[-1])
    return bool((embedding[0, 1:].float() - fixed).abs().max() < 1e-3)
