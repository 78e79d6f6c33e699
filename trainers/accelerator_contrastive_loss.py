"""What InfoNCE needs to know about real and synthetic negatives, in few large operations: the form for accelerators.

An accelerator waits for launches, not for arithmetic. So kinds of one form are computed side by side, and both
directions of a step in one call; only mixup and noise injection, whose norms need vectors, build them, some queries at
a time, in the memory that `trainers.synthetic_draws.query_chunks` allows. Value and gradient are those of the readable
definition in `trainers.synthetic_negatives`, up to rounding. A compiler's trace takes this form too.

A mixture of a hard negative n and a vector x, v = a·x + b·n, has

    |v|² = a²·|x|² + b²·|n|² + 2ab·⟨x, n⟩,   ⟨q, v⟩ = a·⟨q, x⟩ + b·⟨q, n⟩,

all known after one product with the queue if x is the query, and after one more if x is its sign.

Source: paper §7.4 and §10.2; Giakoumoglou and Stathaki 2025 (SynCo).
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.fused_contrastive_loss import find_largest_in_rows
from trainers.info_nce import NegativeSummary
from trainers.synthetic_draws import Draw, query_chunks


class _Mixtures(NamedTuple):
    """Synthetic negatives v = a·x + b·n of several kinds side by side, never built. Shape: (queries, count) each."""

    rows: Tensor
    similarity: Tensor
    inverse_norm: Tensor
    a: Tensor
    b: Tensor


class _Vectors(NamedTuple):
    """What built synthetic negatives leave behind: the largest logit so far, and their weights' and weighted sums."""

    maximum: Tensor
    total: Tensor
    weighted_sum: Tensor


def summarise_in_few_kernels(
    query: Tensor,
    queue: Tensor,
    draws: Mapping[str, Draw],
    num_hard_negatives: int,
    temperature: float,
    generator: torch.Generator | None = None,
    with_mean: bool = True,
) -> NegativeSummary:
    """Summarises each query's negatives: maximum, log-sum-exp and mean of all num_negatives + num_synthetic.

    Query (directions, batch, dim) and queue (directions, num_negatives, dim) are of one type, at least float32; draws
    and summary have a row a query, directions one after the other. The generator continues the randomness of the draws
    with the noise vectors.
    """
    flat = query.flatten(0, 1)
    similarity = torch.bmm(query, queue.mT).flatten(0, 1)
    _, hardest = find_largest_in_rows(similarity, num_hard_negatives)
    mixtures = _mix_with_query(query, queue, similarity, hardest, draws)
    maximum = similarity.amax(dim=1, keepdim=True)
    if mixtures is not None:
        maximum = torch.maximum(maximum, mixtures.similarity.amax(dim=1, keepdim=True))
    maximum = maximum / temperature
    vectors = _build_vectors(flat, queue, hardest, draws, maximum, temperature, generator)
    maximum = vectors.maximum if vectors is not None else maximum

    # From here on all is relative to the largest negative, and the similarities' memory holds their exponentials.
    offset = -maximum
    weights = torch.add(offset, similarity, alpha=1 / temperature, out=similarity).exp_()
    total = weights.sum(dim=1, keepdim=True)
    weighted_sum = torch.zeros_like(flat) if vectors is None else vectors.weighted_sum
    if vectors is not None:
        total += vectors.total
    if mixtures is not None:
        share = torch.add(offset, mixtures.similarity, alpha=1 / temperature).exp_()
        total += share.sum(dim=1, keepdim=True)
        share *= mixtures.inverse_norm
        weights.scatter_add_(1, mixtures.rows, share * mixtures.b)
        share *= mixtures.a
        along_sign = draws["adversarial_perturbation"].negative.shape[1] if "adversarial_perturbation" in draws else 0
        of_query, of_sign = share.split([share.shape[1] - along_sign, along_sign], dim=1)
        weighted_sum.addcmul_(of_query.sum(dim=1, keepdim=True), flat)
        if along_sign:
            weighted_sum.addcmul_(of_sign.sum(dim=1, keepdim=True), flat.sign())
    mean = None
    if with_mean:
        mean = torch.baddbmm(weighted_sum.view_as(query), weights.view(*query.shape[:2], -1), queue).flatten(0, 1)
        mean /= total
    return NegativeSummary(maximum, total.log_().add_(maximum), mean)


def _mix_with_query(
    query: Tensor, queue: Tensor, similarity: Tensor, hardest: Tensor, draws: Mapping[str, Draw]
) -> _Mixtures | None:
    """Mixes the kinds in which x is the query or its sign, the latter last."""
    kinds = [kind for kind in _PARTS if kind in draws]
    if not kinds:
        return None
    rows = hardest.gather(1, torch.cat([draws[kind].negative for kind in kinds], dim=1))
    counts = [draws[kind].negative.shape[1] for kind in kinds]
    parts = [_PARTS[kind](draws[kind].coefficient) for kind in kinds]
    a, b = (
        torch.cat([part.expand(len(rows), count) for part, count in zip(each, counts, strict=True)], dim=1)
        for each in zip(*parts, strict=True)
    )
    negative = similarity.gather(1, rows)
    squared_norm = queue.square().sum(dim=2).gather(1, rows.view(len(query), -1)).view_as(rows)
    length = query.square().sum(dim=2).view(-1, 1)
    between, along, own = negative, length, length
    if kinds[-1] == "adversarial_perturbation":
        sign, last = query.sign(), counts[-1]
        with_sign = torch.bmm(sign, queue.mT).flatten(0, 1).gather(1, rows[:, -last:])
        between = torch.cat([negative[:, :-last], with_sign], dim=1)
        along = _beside(length, query.abs().sum(dim=2).view(-1, 1), between.shape[1] - last, last)
        own = _beside(length, sign.abs_().sum(dim=2).view(-1, 1), between.shape[1] - last, last)
    # |v|² kept above what rounding leaves where x and n cancel
    norm = torch.addcmul(a * own, b, between, value=2).mul_(a).addcmul_(b.square(), squared_norm)
    inverse_norm = norm.clamp_min_(torch.finfo(norm.dtype).eps).rsqrt_()
    return _Mixtures(rows, torch.addcmul(a * along, b, negative).mul_(inverse_norm), inverse_norm, a, b)


def _beside(first: Tensor, second: Tensor, num_first: int, num_second: int) -> Tensor:
    return torch.cat([first.expand(-1, num_first), second.expand(-1, num_second)], dim=1)


# The parts (a, b) of x and n, given the coefficient; x is the query, and of the last kind its sign.
_PARTS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "interpolation": lambda alpha: (alpha, 1 - alpha),
    "extrapolation": lambda beta: (1 - beta, beta),
    "gradient_perturbation": lambda delta: (delta, torch.ones_like(delta)),
    "adversarial_perturbation": lambda eta: (eta, torch.ones_like(eta)),
}


def _build_vectors(
    query: Tensor,
    queue: Tensor,
    hardest: Tensor,
    draws: Mapping[str, Draw],
    maximum: Tensor,
    temperature: float,
    generator: torch.Generator | None,
) -> _Vectors | None:
    """Builds mixup's and noise injection's vectors, some queries at a time, and keeps what the summary needs."""
    mixup, noise = draws.get("mixup"), draws.get("noise_injection")
    chosen = [draw.negative for draw in (mixup, noise) if draw is not None]
    if not chosen:
        return None
    num_mixup = 0 if mixup is None else mixup.negative.shape[1]
    if mixup is not None:
        assert mixup.partner is not None
        chosen.append(mixup.partner)
    rows = hardest.gather(1, torch.cat(chosen, dim=1))
    if len(queue) > 1:  # rows of the queues one after the other
        starts = torch.arange(0, queue[:, :, 0].numel(), queue.shape[1], device=queue.device)
        rows = rows.view(len(queue), -1).add_(starts.unsqueeze(1)).view_as(rows)
    every_vector, num_chosen = queue.flatten(0, 1), rows.shape[1] - num_mixup
    num_vectors = num_mixup if noise is None else noise.negative.shape[1]  # as `draw_noise` cuts its chunks
    logit_query = query.unsqueeze(1) / temperature
    toward_partner = None if mixup is None else (1 - mixup.coefficient).expand_as(mixup.negative).unsqueeze(2)
    maxima, shares, sums = [], [], []
    for queries in query_chunks(query, num_vectors):
        vectors = every_vector[rows[queries, :num_chosen]]  # (queries, num_mixup + num_noise, dim)
        if noise is not None:
            epsilon = torch.empty_like(vectors[:, num_mixup:], memory_format=torch.contiguous_format)
            vectors[:, num_mixup:].addcmul_(epsilon.normal_(generator=generator), noise.coefficient.unsqueeze(2))
            del epsilon
        if toward_partner is not None:
            vectors[:, :num_mixup].lerp_(every_vector[rows[queries, num_chosen:]], toward_partner[queries])
        norm = torch.linalg.vector_norm(vectors, dim=2).clamp_min_(torch.finfo(query.dtype).eps)
        logits = torch.bmm(logit_query[queries], vectors.mT).squeeze(1).div_(norm)
        maxima.append(torch.maximum(maximum[queries], logits.amax(dim=1, keepdim=True)))
        shares.append(logits.sub_(maxima[-1]).exp_())
        sums.append(torch.bmm((shares[-1] / norm).unsqueeze(1), vectors).squeeze(1))
    maximum, share, weighted_sum = (each[0] if len(each) == 1 else torch.cat(each) for each in (maxima, shares, sums))
    return _Vectors(maximum, share.sum(dim=1, keepdim=True), weighted_sum)
