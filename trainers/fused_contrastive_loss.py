"""What InfoNCE needs to know about real and synthetic negatives together, in the memory of the real ones, on a CPU.

`trainers.accelerator_contrastive_loss` is the form for everything else, which waits for launches rather than memory.

Synthetic vectors are detached, so a logit's gradient in q is s / τ, and the mean negative Σ softmax · s is a sum of q,
sign(q), queue vectors and noise. The weights of queue vectors are collected first: one matrix product serves real and
synthetic negatives. Noise vectors must be drawn to know what they do; they come and go some queries at a time. Value
and gradient are those of the readable definition in `trainers.synthetic_negatives`.

Similarity to the query and norm follow from dot products, without building a vector. Each synthetic negative is
s = v / |v|, with v a mixture of a hard negative n and one more vector:

    kind                        v                other vector      what is not yet known
    interpolation               α·q + (1 − α)·n  the query q       nothing
    extrapolation               (1 − β)·q + β·n  the query q       nothing
    mixup                       γ·n + (1 − γ)·n′ hard negative n′  ⟨n, n′⟩
    noise injection             n + σ·ε          noise ε           ⟨q, ε⟩, ⟨n, ε⟩ and |ε|²
    gradient perturbation       n + δ·q          the query q       nothing
    adversarial perturbation    n + η·sign(q)    sign(q)           ⟨sign(q), n⟩

The similarities ⟨q, n⟩ are known from ranking the queue, so ⟨q, s⟩ follows from a few dot products, |v| included.
Norms of q and n are taken as they are, not as one: half precision leaves them a little off.

Products of chosen pairs are sampled matrix products: the pairs become the pattern of a sparse matrix, whose product
fills in nothing else and copies no vector.

Source: paper §7.4 and §10.2; Giakoumoglou and Stathaki 2025 (SynCo).
"""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from trainers.info_nce import NegativeSummary
from trainers.synthetic_draws import Draw, draw_noise, query_chunks

# torch says once a process that such tensors are in beta (2.15) and unchecked, even where that is asked for (2.11);
# here every entry is tested against a loop.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sparse (CSR tensor support is in beta|invariant checks are implicitly)")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), dtype=torch.float32, device="cpu", check_invariants=False)


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


def summarise_negatives(
    query: Tensor,
    queue: Tensor,
    draws: Mapping[str, Draw],
    num_hard_negatives: int,
    temperature: float,
    generator: torch.Generator | None = None,
    with_mean: bool = True,
) -> NegativeSummary:
    """Summarises each query's negatives: maximum, log-sum-exp and mean of all num_negatives + num_synthetic.

    Query (batch, dim) and queue (num_negatives, dim) are of one type, at least float32; the generator continues the
    randomness of the draws with the noise vectors. The mean is needed for the gradient alone.
    """
    similarity = query @ queue.T
    hard = find_hardest_negatives(query, queue, similarity, num_hard_negatives)
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


def find_hardest_negatives(query: Tensor, queue: Tensor, similarity: Tensor, num_hard_negatives: int) -> HardNegatives:
    """Picks each query's most similar queue vectors."""
    hard_similarity, index = find_largest_in_rows(similarity, num_hard_negatives)
    queue_squared_norm = torch.linalg.vector_norm(queue, dim=1).square()
    squared_norm = queue_squared_norm.index_select(0, index.flatten()).view_as(index)
    query_squared_norm = query.square().sum(dim=1, keepdim=True)
    return HardNegatives(
        query, queue, index, Products(hard_similarity, squared_norm), Products(query_squared_norm, query_squared_norm)
    )


def find_largest_in_rows(values: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Picks the `num` largest values of each row, in no order: topk in a fraction of its time where rows are long.

    On a CPU, if columns are put into groups, the largest values lie in the `num` groups of largest maximum. So only
    columns / size maxima and then num · size members have to be seen; size = √(columns / num) makes both equal.
    """
    if not computes_eagerly_on_cpu(values):
        found = values.topk(num, dim=1, sorted=False)
        return found.values, found.indices
    columns = values.shape[1]
    size = math.isqrt(columns // num)
    while columns % size:
        size -= 1
    if size < 8:
        index = _find_columns_of_largest(values, num)
    else:
        maxima = values.unflatten(1, (size, columns // size)).amax(dim=1)
        groups = _find_columns_of_largest(maxima, num)
        offsets = torch.arange(0, columns, columns // size, device=values.device)
        members = (groups.unsqueeze(1) + offsets.unsqueeze(1)).flatten(1)
        index = members.gather(1, _find_columns_of_largest(values.gather(1, members), num))
    return values.gather(1, index), index


def _find_columns_of_largest(values: Tensor, num: int) -> Tensor:
    # numpy partitions in a third to a half of the time of torch's topk
    first = values.shape[1] - num
    return torch.from_numpy(np.argpartition(values.numpy(), first, axis=1)[:, first:])


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
    between = multiply_pairs(hard.queue, hard.rows(draw.negative), hard.rows(draw.partner))
    a, b = draw.coefficient, 1 - draw.coefficient
    similarity, norm = _mix(a, hard.chosen(draw.negative), b, hard.chosen(draw.partner), between)
    return Mixture(similarity, norm, ((draw.negative, a), (draw.partner, b)))


def _adversarial_perturbation(hard: HardNegatives, draw: Draw) -> Mixture:
    """Mixes n + η·sign(q): needs ⟨sign(q), n⟩."""
    sign, one = hard.query.sign(), torch.ones_like(draw.coefficient)
    between = multiply_with_rows(sign, hard.queue, hard.rows(draw.negative))
    step = Products(hard.query.abs().sum(dim=1, keepdim=True), sign.abs().sum(dim=1, keepdim=True))
    similarity, norm = _mix(draw.coefficient, step, one, hard.chosen(draw.negative), between)
    return Mixture(similarity, norm, ((draw.negative, one),), (sign, draw.coefficient))


def noise_mixture(hard: HardNegatives, choice: Tensor, sigma: Tensor, noise: Tensor) -> Mixture:
    """Mixes n + σ·ε, but for its part along ε, with noise ε (batch, count, dim): needs ⟨q, ε⟩, ⟨n, ε⟩ and |ε|²."""
    one, vectors = torch.ones_like(sigma), noise.flatten(0, 1)
    between = multiply_with_rows(vectors, hard.queue, hard.rows(choice).flatten().unsqueeze(1)).view_as(choice)
    length = torch.linalg.vector_norm(noise, dim=-1)
    similarity, norm = _mix(
        sigma, Products(compute_similarity_to(hard.query, noise), length.square()), one, hard.chosen(choice), between
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


def multiply_with_rows(left: Tensor, right: Tensor, index: Tensor) -> Tensor:
    """Each vector's dot products with the rows chosen for it: ⟨left[i], right[index[i, j]]⟩."""
    num, count = index.shape
    starts = torch.arange(0, num * count + 1, count, device=left.device)
    return _sampled_product(left, right, starts, index.flatten()).view(num, count)


def multiply_pairs(vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Dot products of pairs out of one set: ⟨vectors[first[i, j]], vectors[second[i, j]]⟩."""
    order = torch.from_numpy(first.flatten().numpy().argsort())  # a third of torch's time
    starts = torch.bincount(first.flatten(), minlength=len(vectors)).cumsum(0)
    starts = torch.cat([starts.new_zeros(1), starts])
    in_order = _sampled_product(vectors, vectors, starts, second.flatten().gather(0, order))
    return torch.empty_like(in_order).scatter_(0, order, in_order).view_as(first)


def compute_similarity_to(left: Tensor, vectors: Tensor) -> Tensor:
    """Returns ⟨left, vector⟩ for left (queries, dim) and vectors (queries, count, dim). Shape: (queries, count)."""
    # On CPU a row times a transposed matrix runs seven times faster than the matrix times a column.
    return torch.bmm(left.unsqueeze(1), vectors.mT).squeeze(1)


def computes_eagerly_on_cpu(tensor: Tensor) -> bool:
    """Whether an operation on this tensor is carried out now, by the CPU, on memory that other libraries can read.

    An accelerator would have to wait for its own results, a trace cannot contain the step, and neither fake tensors
    nor the wrapped ones of `torch.func` have memory of their own.
    """
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    # The wrapped tensors of torch.func are of the plain type.
    return type(tensor) in (Tensor, nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def can_be_sampled(query: Tensor, queue: Tensor, draws: Mapping[str, Draw]) -> bool:
    """Whether the products that this form needs can be sampled matrix products here.

    A pattern with repeated entries is taken as long as a matrix without any could have as many.
    """
    counts = {kind: draw.negative.shape[1] for kind, draw in draws.items()}
    return (
        computes_eagerly_on_cpu(query)
        and counts.get("adversarial_perturbation", 0) <= len(queue)
        and counts.get("mixup", 0) * len(query) <= len(queue) ** 2
    )


def _sampled_product(left: Tensor, right: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """Entries of left @ right.mT where a pattern in compressed rows has one. Shape: that of the columns."""
    nothing, shape = left.new_zeros(len(columns)), (len(left), len(right))
    pattern = torch.sparse_csr_tensor(starts, columns, nothing, shape, device=left.device, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, left, right.mT, beta=0.0).values()
