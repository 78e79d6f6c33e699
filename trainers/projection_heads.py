"""The projector g and the predictor h: the same two-layer MLP (paper section 7.2)."""

from __future__ import annotations

from torch import nn

NORMS = {"batch": nn.BatchNorm1d, "none": nn.Identity}


def projection_head(
    input_dim: int, hidden_dim: int = 4096, output_dim: int = 256, norm: str = "batch"
) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear; the output is normalised where representations are compared.

    Args:
        input_dim: Dimension of the backbone's feature (projector) or of a projection (predictor).
        hidden_dim: Width of the hidden layer.
        output_dim: Dimension of the output.
        norm: `batch` as in the paper; `none` where results must not depend on how a batch is split.

    Returns:
        A module from (batch, input_dim) to (batch, output_dim), not ℓ2-normalised.

    Source: paper section 7.2. The predictor reads the un-normalised projection, which is our reading of "both MLPs
    use ℓ2-normalisation on their outputs" and what the authors' code does.
    """
    return nn.Sequential(
        nn.Linear(input_dim, hidden_dim),
        NORMS[norm](hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, output_dim),
    )
