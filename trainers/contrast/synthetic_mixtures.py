"""Synthetic negatives in closed form: similarity to the query and norm from dot products, without building a vector.

Each synthetic negative is s = v / |v|, with v a mixture of a hard negative n and one more vector:

    kind                        v                other vector      what is not yet known
    interpolation               α·q + (1 − α)·n  the query q       nothing
    extrapolation               (1 − β)·q + β·n  the query q       nothing
    mixup                       γ·n + (1 − γ)·n′ hard negative n′  ⟨n, n′⟩
    noise injection             n + σ·ε          noise ε           ⟨q, ε⟩, ⟨n, ε⟩ and |ε|²
    gradient perturbation       n + δ·q          the query q       nothing
    adversarial perturbation    n + η·sign(q)    sign(q)           ⟨sign(q), n⟩

The similarities ⟨q, n⟩ are known from ranking the queue, so ⟨q, s⟩ follows from a few dot products, |v| included.
Norms of q and n are taken as they are, not as one: half precision leaves them a little off.

Source: paper §7.4 and §10.2; Giakoumoglou and Stathaki 2025 (SynCo).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainers.contrast.paired_products import (
    computes_eagerly_on_cpu,
    products_of_pairs,
    products_with_rows,
    similarity_to,
)
from trainers.contrast.synthetic_draws import Draw


class Products(NamedTuple):
    """What a mixture needs to know of a vector x: ⟨q, x⟩ and |x|². Shape: (batch, count or 1), both."""

    similarity: Tensor
    squared_norm: Tensor


@dataclass(frozen=True)
class HardNegatives:
    """The queue vectors most similar to each query, with the dot products that the ranking leaves behind.

    Attributes:
        query: Shape: (batch, dim).
        queue: Shape: (num_negatives, dim).
        index: Rows of the queue. Shape: (batch, num_hard_negatives).
        products: Of the rows at `index`. Shape: (batch, num_hard_negatives).
        query_products: Of the query itself. Shape: (batch, 1).
    """

    query: Tensor
    queue: Tensor
    index: Tensor
    products: Products
    query_products: Products

    def chosen(self, choice: Tensor) -> Products:
        """Returns the products of chosen hard negatives. Shape: that of the choice, (batch, count)."""
        return Products(self.products.similarity.gather(1, choice), self.products.squared_norm.gather(1, choice))

    def rows(self, choice: Tensor) -> Tensor:
        """Returns the rows of the queue that hold chosen hard negatives. Shape: that of the choice, (batch, count)."""
        return self.index.gather(1, choice)

    def of(self, queries: slice) -> "HardNegatives":
        """Returns those of a few queries."""
        products, query_products = (
            Products(each.similarity[queries], each.squared_norm[queries])
            for each in (self.products, self.query_products)
        )
        return HardNegatives(self.query[queries], self.queue, self.index[queries], products, query_products)


@dataclass(frozen=True)
class Mixture:
    """Synthetic negatives of one kind before normalisation, v, as a combination of vectors that exist already.

    Attributes:
        similarity: ⟨q, v⟩ / |v|. Shape: (batch, count).
        norm: |v|. Shape: (batch, count).
        negatives: Chosen hard negatives, each with its part in v. Shape: (batch, count) and one that expands to it.
        direction: One more vector a query with its part in v. Shape: (batch, dim), and as above.
    """

    similarity: Tensor
    norm: Tensor
    negatives: tuple[tuple[Tensor, Tensor], ...]
    direction: tuple[Tensor, Tensor] | None = None


def hardest_negatives(query: Tensor, queue: Tensor, similarity: Tensor, num_hard_negatives: int) -> HardNegatives:
    """Picks each query's most similar queue vectors.

    Args:
        query: Shape: (batch, dim).
        queue: Shape: (num_negatives, dim).
        similarity: Of every query to every queue vector. Shape: (batch, num_negatives).
        num_hard_negatives: N, at most num_negatives.
    """
    hard_similarity, index = largest_in_rows(similarity, num_hard_negatives)
    queue_squared_norm = torch.linalg.vector_norm(queue, dim=1).square()
    squared_norm = queue_squared_norm.index_select(0, index.flatten()).view_as(index)
    query_squared_norm = query.square().sum(dim=1, keepdim=True)
    return HardNegatives(
        query, queue, index, Products(hard_similarity, squared_norm), Products(query_squared_norm, query_squared_norm)
    )


def largest_in_rows(values: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Picks the `num` largest values of each row, in no order: topk in a fraction of its time where rows are long.

    If columns are put into groups, the largest values lie in the `num` groups of largest maximum. So topk only has to
    see columns / size maxima and then num · size members; size = √(columns / num) makes both equal.

    Args:
        values: Shape: (batch, columns).
        num: At most columns.

    Returns:
        Values and their columns. Shape: (batch, num), twice.
    """
    columns = values.shape[1]
    size = math.isqrt(columns // num)
    while columns % size:
        size -= 1
    if size == 1 or (size < 8 and computes_eagerly_on_cpu(values)):
        index = _columns_of_largest(values, num)
    else:
        maxima = values.unflatten(1, (size, columns // size)).amax(dim=1)
        groups = _columns_of_largest(maxima, num)
        offsets = torch.arange(0, columns, columns // size, device=values.device)
        members = (groups.unsqueeze(1) + offsets.unsqueeze(1)).flatten(1)
        index = members.gather(1, _columns_of_largest(values.gather(1, members), num))
    return values.gather(1, index), index


def _columns_of_largest(values: Tensor, num: int) -> Tensor:
    if computes_eagerly_on_cpu(values):  # numpy partitions in a third to a half of the time of torch's topk
        first = values.shape[1] - num
        return torch.from_numpy(np.argpartition(values.numpy(), first, axis=1)[:, first:])
    return values.topk(num, dim=1, sorted=False).indices


def _interpolation(hard: HardNegatives, draw: Draw) -> Mixture:
    return _query_and_negative(hard, draw.negative, draw.coefficient, 1 - draw.coefficient)


def _extrapolation(hard: HardNegatives, draw: Draw) -> Mixture:
    return _query_and_negative(hard, draw.negative, 1 - draw.coefficient, draw.coefficient)


def _gradient_perturbation(hard: HardNegatives, draw: Draw) -> Mixture:
    return _query_and_negative(hard, draw.negative, draw.coefficient, torch.ones_like(draw.coefficient))


def _query_and_negative(hard: HardNegatives, choice: Tensor, a: Tensor, b: Tensor) -> Mixture:
    """Mixes a·q + b·n: everything follows from ⟨q, n⟩."""
    negative = hard.chosen(choice)
    similarity, norm = _mix(a, hard.query_products, b, negative, between=negative.similarity)
    return Mixture(similarity, norm, ((choice, b),), (hard.query, a))


def _mixup(hard: HardNegatives, draw: Draw) -> Mixture:
    """Mixes γ·n + (1 − γ)·n′: needs ⟨n, n′⟩."""
    assert draw.partner is not None
    between = products_of_pairs(hard.queue, hard.rows(draw.negative), hard.rows(draw.partner))
    a, b = draw.coefficient, 1 - draw.coefficient
    similarity, norm = _mix(a, hard.chosen(draw.negative), b, hard.chosen(draw.partner), between)
    return Mixture(similarity, norm, ((draw.negative, a), (draw.partner, b)))


def _adversarial_perturbation(hard: HardNegatives, draw: Draw) -> Mixture:
    """Mixes n + η·sign(q): needs ⟨sign(q), n⟩."""
    sign, one = hard.query.sign(), torch.ones_like(draw.coefficient)
    between = products_with_rows(sign, hard.queue, hard.rows(draw.negative))
    step = Products(hard.query.abs().sum(dim=1, keepdim=True), sign.abs().sum(dim=1, keepdim=True))
    similarity, norm = _mix(draw.coefficient, step, one, hard.chosen(draw.negative), between)
    return Mixture(similarity, norm, ((draw.negative, one),), (sign, draw.coefficient))


def noise_mixture(hard: HardNegatives, choice: Tensor, sigma: Tensor, noise: Tensor) -> Mixture:
    """Mixes n + σ·ε with noise vectors ε at hand: needs ⟨q, ε⟩, ⟨n, ε⟩ and |ε|².

    Args:
        hard: Of the queries in work.
        choice: n among them. Shape: (batch, count).
        sigma: σ. Shape: (1, 1).
        noise: ε. Shape: (batch, count, dim).

    Returns:
        The mixture but for its part along ε, which is σ.
    """
    one, vectors = torch.ones_like(sigma), noise.flatten(0, 1)
    between = products_with_rows(vectors, hard.queue, hard.rows(choice).flatten().unsqueeze(1)).view_as(choice)
    length = torch.linalg.vector_norm(noise, dim=-1)
    similarity, norm = _mix(
        sigma, Products(similarity_to(hard.query, noise), length.square()), one, hard.chosen(choice), between
    )
    return Mixture(similarity, norm, ((choice, one),))


def _mix(a: Tensor, x: Products, b: Tensor, y: Products, between: Tensor) -> tuple[Tensor, Tensor]:
    """Returns ⟨q, v⟩ / |v| and |v| of v = a·x + b·y, given ⟨x, y⟩."""
    norm = _norm(a**2 * x.squared_norm, b**2 * y.squared_norm, a * b * between)
    return (a * x.similarity + b * y.similarity) / norm, norm


# Of every kind but noise injection, whose vectors are at hand only some queries at a time: see `noise_mixture`.
CLOSED_FORMS: dict[str, Callable[[HardNegatives, Draw], Mixture]] = {
    "interpolation": _interpolation,
    "extrapolation": _extrapolation,
    "mixup": _mixup,
    "gradient_perturbation": _gradient_perturbation,
    "adversarial_perturbation": _adversarial_perturbation,
}


def _norm(first: Tensor, second: Tensor, between: Tensor) -> Tensor:
    """Returns |a + b| from |a|², |b|² and ⟨a, b⟩, kept above what rounding leaves where a and b cancel."""
    apart, resolution = first + second, torch.finfo(first.dtype)
    return torch.maximum(apart + 2 * between, resolution.eps * apart + resolution.tiny).sqrt()
