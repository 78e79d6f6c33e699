"""What InfoNCE needs to know about real and synthetic negatives together, in the memory of the real ones.

Synthetic vectors are detached, so a logit's gradient in q is s / τ, and the mean negative Σ softmax · s is a sum of q,
sign(q), queue vectors (see `trainers.contrast.synthetic_mixtures`) and noise. The weights of queue vectors are
collected first: one matrix product serves real and synthetic negatives. Noise vectors must be drawn to know what they
do; they come and go some queries at a time. Value and gradient are those of the readable definition in
`trainers.synthetic_negatives`.

Source: paper §7.4; Giakoumoglou and Stathaki 2025 (SynCo).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainers.contrast.info_nce import NegativeSummary
from trainers.contrast.synthetic_draws import Draw, draw_noise, query_chunks
from trainers.contrast.synthetic_mixtures import CLOSED_FORMS, HardNegatives, Mixture, hardest_negatives, noise_mixture


def summarise_negatives(
    query: Tensor,
    queue: Tensor,
    draws: Mapping[str, Draw],
    num_hard_negatives: int,
    temperature: float,
    generator: torch.Generator | None = None,
    with_mean: bool = True,
) -> NegativeSummary:
    """Summarises each query's real and synthetic negatives.

    Args:
        query: At least float32. Shape: (batch, dim).
        queue: The query's dtype. Shape: (num_negatives, dim).
        draws: What chance decided, kind by kind.
        num_hard_negatives: N, how many of the queue are hard negatives of a query.
        temperature: τ > 0.
        generator: Continues the randomness of the draws with the noise vectors.
        with_mean: Whether the mean negative, needed for the gradient alone, is computed.

    Returns:
        Maximum, log-sum-exp and mean of all num_negatives + num_synthetic negatives.
    """
    similarity = query @ queue.T
    hard = hardest_negatives(query, queue, similarity, num_hard_negatives)
    mixtures = [CLOSED_FORMS[kind](hard, draw) for kind, draw in draws.items() if kind != "noise_injection"]
    known = [hard.products.similarity, *(each.similarity for each in mixtures)]
    maximum = torch.cat(known, dim=1).amax(dim=1, keepdim=True)
    total, mean = torch.zeros_like(maximum), torch.zeros_like(query)
    if "noise_injection" in draws:
        mixture, maximum, mean = _noise_vectors(hard, draws["noise_injection"], maximum, temperature, generator)
        mixtures.append(mixture)

    # From here on all is relative to the largest negative, and the similarities' memory holds their exponentials.
    weights = torch.add(-maximum / temperature, similarity, alpha=1 / temperature, out=similarity).exp_()
    mixture_weights = [((each.similarity - maximum) / temperature).exp() for each in mixtures]
    for each in (weights, *mixture_weights):
        total = total + each.sum(dim=1, keepdim=True)
    if with_mean:
        mean = (mean + _weighted_sum(hard, weights, mixtures, mixture_weights)) / total
    maximum = maximum / temperature
    return NegativeSummary(maximum, maximum + total.log(), mean if with_mean else None)


def _weighted_sum(
    hard: HardNegatives, weights: Tensor, mixtures: Sequence[Mixture], mixture_weights: Sequence[Tensor]
) -> Tensor:
    """Sums queue vectors by `weights`, which it overwrites, and synthetic negatives by theirs. Shape: (batch, dim)."""
    hard_weights = weights.gather(1, hard.index)
    directions = torch.zeros_like(hard.query)
    for mixture, mixture_weight in zip(mixtures, mixture_weights, strict=True):
        share = mixture_weight / mixture.norm
        for choice, part in mixture.negatives:
            hard_weights.scatter_add_(1, choice, share * part)
        if mixture.direction is not None:
            direction, part = mixture.direction
            directions.addcmul_((share * part).sum(dim=1, keepdim=True), direction)
    weights.scatter_(1, hard.index, hard_weights)
    return torch.addmm(directions, weights, hard.queue)


def _noise_vectors(
    hard: HardNegatives, draw: Draw, maximum: Tensor, temperature: float, generator: torch.Generator | None
) -> tuple[Mixture, Tensor, Tensor]:
    """Mixes n + σ·ε, every ε drawn: the mixtures, the new maximum, and what the vectors σ·ε / |v| weigh together."""
    similarities, norms, maxima, sums = [], [], [], []
    count, one = draw.negative.shape[1], torch.ones_like(draw.coefficient)
    for queries, noise in zip(query_chunks(hard.query, count), draw_noise(hard.query, count, generator), strict=True):
        mixture = noise_mixture(hard.of(queries), draw.negative[queries], draw.coefficient, noise)
        chunk_maximum = torch.maximum(maximum[queries], mixture.similarity.amax(dim=1, keepdim=True))
        weights = ((mixture.similarity - chunk_maximum) / temperature).exp()
        sums.append(torch.bmm((draw.coefficient * weights / mixture.norm).unsqueeze(1), noise).squeeze(1))
        similarities.append(mixture.similarity)
        norms.append(mixture.norm)
        maxima.append(chunk_maximum)
    mixture = Mixture(torch.cat(similarities), torch.cat(norms), ((draw.negative, one),))
    return mixture, torch.cat(maxima), torch.cat(sums)
