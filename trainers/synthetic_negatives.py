"""The six kinds of synthetic hard negatives of SynCo-v2: their definition, and the contrastive loss that adds them.

For a query q of unit norm, n and n′ are drawn with replacement from the N queue vectors most similar to q. Each
function below is one kind. What it returns is scaled to unit norm and detached: synthetic negatives repel the query
and learn nothing themselves. `STRATEGIES` names the six in the paper's order.

`SyntheticNegatives` computes InfoNCE with all of them exactly, in the form that is fastest where it runs: on a CPU
that of `trainers.fused_contrastive_loss`, elsewhere that of `trainers.accelerator_contrastive_loss`. `sample` builds
them, and `readable_loss` is the loss as one would write it from there: the oracle of the fast ones.

Source: paper §7.4 (numbers), §10.2 (what each kind is for); Giakoumoglou and Stathaki 2025 (SynCo) for the formulas.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.errors import suggest
from trainers.accelerator_contrastive_loss import summarise_in_few_kernels
from trainers.fused_contrastive_loss import (
    can_be_sampled,
    computes_eagerly_on_cpu,
    find_largest_in_rows,
    summarise_negatives,
)
from trainers.info_nce import (
    ContrastiveOutput,
    NegativeSummary,
    check_contrastive_inputs,
    contrast_with_summary,
    info_nce,
    needs_gradient,
    promote_precision,
)
from trainers.settings import SyntheticNegativesConfig
from trainers.synthetic_draws import Draw, draw_noise, draw_synthetic

logger = logging.getLogger(__name__)

# Half-precision vectors of unit length are this near to it.
_LENGTH_TOLERANCE = 0.02


def interpolation(query: Tensor, negative: Tensor, partner: Tensor, alpha: Tensor) -> Tensor:
    """Type 1: α·q + (1 − α)·n with α ~ U(0, 0.5), between query and hard negative, nearer the negative."""
    return alpha * query + (1 - alpha) * negative


def extrapolation(query: Tensor, negative: Tensor, partner: Tensor, beta: Tensor) -> Tensor:
    """Type 2: q + β·(n − q) with β ~ U(1, 1.5), past the hard negative on the line from the query.

    The paper gives no formula and its §10.2 speaks of moving away from hard negatives; this is the formula of SynCo.
    """
    return query + beta * (negative - query)


def mixup(query: Tensor, negative: Tensor, partner: Tensor, gamma: Tensor) -> Tensor:
    """Type 3: γ·n + (1 − γ)·n′ with γ ~ U(0, 1), between two hard negatives; the partner is n′."""
    return gamma * negative + (1 - gamma) * partner


def noise_injection(query: Tensor, negative: Tensor, partner: Tensor, sigma: Tensor) -> Tensor:
    """Type 4: n + σ·ε with ε ~ N(0, I), σ = 0.01; the partner is ε."""
    return negative + sigma * partner


def gradient_perturbation(query: Tensor, negative: Tensor, partner: Tensor, delta: Tensor) -> Tensor:
    """Type 5: n + δ·∇ₙ⟨q, n⟩ with δ = 0.01, a step along the similarity's gradient, which is q."""
    return negative + delta * query


def adversarial_perturbation(query: Tensor, negative: Tensor, partner: Tensor, eta: Tensor) -> Tensor:
    """Type 6: n + η·sign(∇ₙ⟨q, n⟩) with η = 0.01, the same step in every coordinate, towards the query."""
    return negative + eta * query.sign()


# Arguments: query (batch, 1, dim), negative and partner (batch, count, dim), coefficient (batch or 1, count or 1, 1).
STRATEGIES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "interpolation": interpolation,
    "extrapolation": extrapolation,
    "mixup": mixup,
    "noise_injection": noise_injection,
    "gradient_perturbation": gradient_perturbation,
    "adversarial_perturbation": adversarial_perturbation,
}


class SyntheticNegatives(nn.Module):
    """InfoNCE with synthetic hard negatives, for any contrastive loop with a queue; holds no parameters and no state.

    Half-precision inputs are computed in float32, also under autocast. All randomness comes from the given generator,
    or from the device's global one. Gradients reach query and key; queue and synthetic negatives get none.

    Args:
        config: Settings; None means the paper's.
        settings: Single fields of `SyntheticNegativesConfig` that replace those of `config`; `num_mixup=64` and its
            like, as on the command line, replace the count of one kind.

    Raises:
        ValueError: If a setting is out of its range.
        TypeError: If a setting is unknown, naming the nearest.

    Example:
        >>> synthetic_negatives = SyntheticNegatives(num_hard_negatives=1024, num_mixup=64)
        >>> loss = synthetic_negatives.loss(query, key.detach(), queue)
    """

    # Whether the first vectors were looked at; a trainer that makes them itself need not wait for the device.
    knows_lengths = False

    def __init__(self, config: SyntheticNegativesConfig | None = None, **settings: Any) -> None:
        super().__init__()
        config = config or SyntheticNegativesConfig()
        counts = {kind: settings.pop(f"num_{kind}") for kind in STRATEGIES if f"num_{kind}" in settings}
        known = [*vars(config), *(f"num_{kind}" for kind in STRATEGIES)]
        for name in settings:
            if name not in known:
                raise TypeError(f"{name} is no setting of SyntheticNegatives.{suggest(name, known)}")
        config = replace(config, **settings)
        self.config = replace(config, counts={**config.counts, **counts}) if counts else config

    @property
    def num_synthetic(self) -> int:
        """How many synthetic negatives each query gets; 768 in the paper."""
        return sum(self.config.active_counts.values())

    def extra_repr(self) -> str:
        """Shows the settings in the module's printed form."""
        return str(self.config)

    def forward(self, query: Tensor, key: Tensor, queue: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Is `loss`."""
        return self.loss(query, key, queue, generator)

    def loss(self, query: Tensor, key: Tensor, queue: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """InfoNCE with real and synthetic negatives, mean over the batch; arguments as in `contrast`. Shape: ()."""
        return self.contrast(query, key, queue, generator).loss

    def contrast(
        self, query: Tensor, key: Tensor, queue: Tensor, generator: torch.Generator | None = None
    ) -> ContrastiveOutput:
        """InfoNCE with real and synthetic negatives, and contrast accuracy.

        Args:
            query: Predictions of the online branch, unit norm. Shape: (batch, dim).
            key: Projections of the target branch, unit norm. Shape: (batch, dim).
            queue: Keys of earlier batches, unit norm. Shape: (num_negatives, dim).
            generator: Source of randomness on the query's device.

        Returns:
            Mean loss, and the share of positives ranked above all negatives, real and synthetic.

        Raises:
            ValueError: If the inputs do not belong together or the queue is smaller than `num_hard_negatives`.
        """
        if self.num_synthetic == 0:
            return info_nce(query, key, queue, self.config.temperature)
        self._check(query, key, queue, generator)
        return self._contrast(query, key, queue.unsqueeze(0), generator)

    def contrast_both(
        self,
        first: tuple[Tensor, Tensor, Tensor],
        second: tuple[Tensor, Tensor, Tensor],
        generator: torch.Generator | None = None,
    ) -> ContrastiveOutput:
        """Both directions of a step: the sum of their losses and the mean of their accuracies.

        On a CPU they are computed one after the other, elsewhere in one call, which draws other random numbers.

        Args:
            first: Query, key and queue of one direction, as in `contrast`.
            second: Those of the other, of the same shapes.
            generator: Source of randomness on the query's device.

        Raises:
            ValueError: As in `contrast`.
        """
        if self.num_synthetic == 0 or computes_eagerly_on_cpu(first[0].detach()):
            outputs = [self.contrast(*direction, generator) for direction in (first, second)]
            return ContrastiveOutput(
                outputs[0].loss + outputs[1].loss, (outputs[0].accuracy + outputs[1].accuracy) / 2
            )
        for direction in (first, second):
            self._check(*direction, generator)
        query, key, queue = (torch.stack(pair) for pair in zip(first, second, strict=True))
        output = self._contrast(query.flatten(0, 1), key.flatten(0, 1), queue, generator)
        return ContrastiveOutput(2 * output.loss, output.accuracy)

    def _contrast(
        self, query: Tensor, key: Tensor, queues: Tensor, generator: torch.Generator | None
    ) -> ContrastiveOutput:
        """The mean over directions that lie one after the other: query and key (directions * batch, dim)."""
        with_mean = needs_gradient(query)
        with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            exact_query, exact_queues = promote_precision(query, queues)
            negatives = self._summarise(exact_query, exact_queues, generator, with_mean)
        return contrast_with_summary(query, key, negatives, self.config.temperature)

    def _summarise(
        self, query: Tensor, queues: Tensor, generator: torch.Generator | None, with_mean: bool
    ) -> NegativeSummary:
        draws = draw_synthetic(self.config, query, generator)
        rest = (draws, self.config.num_hard_negatives, self.config.temperature, generator, with_mean)
        if len(queues) == 1 and can_be_sampled(query, queues[0], draws):
            return summarise_negatives(query, queues[0], *rest)
        return summarise_in_few_kernels(query.unflatten(0, (len(queues), -1)), queues, *rest)

    @torch.no_grad()
    def sample(self, query: Tensor, queue: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Builds the synthetic negatives: their definition, for study and for other losses.

        Given the same generator state, these are the ones that `loss` uses.

        Args:
            query: Unit norm. Shape: (batch, dim).
            queue: Unit norm. Shape: (num_negatives, dim).
            generator: Source of randomness on the query's device.

        Returns:
            Kind -> detached unit vectors, at least float32, for each kind with a count. Shape: (batch, count, dim).

        Raises:
            ValueError: As in `contrast`.
        """
        self._check(query, query, queue, generator)
        with torch.autocast(query.device.type, enabled=False):
            query, queue = promote_precision(query, queue)
            return self._build(query, queue, draw_synthetic(self.config, query, generator), generator)

    def readable_loss(
        self, query: Tensor, key: Tensor, queue: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss as one reads it: build, concatenate, cross-entropy, autograd. Slow and large; the oracle of `loss`.

        Arguments, errors and, given the same generator state, the result are those of `loss`.
        """
        self._check(query, key, queue, generator)
        with torch.autocast(query.device.type, enabled=False):
            query, key, queue = promote_precision(query, key, queue.detach())
            draws = draw_synthetic(self.config, query.detach(), generator)
            synthetic = self._build(query.detach(), queue, draws, generator)
            similarities = [(query * key).sum(dim=1, keepdim=True), query @ queue.T]
            similarities += [(query.unsqueeze(1) * vectors).sum(dim=-1) for vectors in synthetic.values()]
            logits = torch.cat(similarities, dim=1) / self.config.temperature
            positive_first = torch.zeros(len(query), dtype=torch.long, device=query.device)
            return F.cross_entropy(logits, positive_first)

    @torch.no_grad()
    def _build(
        self, query: Tensor, queue: Tensor, draws: Mapping[str, Draw], generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        _, hardest = find_largest_in_rows(query @ queue.T, self.config.num_hard_negatives)
        synthetic = {}
        for kind, draw in draws.items():
            negative = partner = queue[hardest.gather(1, draw.negative)]
            if draw.partner is not None:
                partner = queue[hardest.gather(1, draw.partner)]
            elif kind == "noise_injection":
                partner = torch.cat([noise.clone() for noise in draw_noise(query, draw.negative.shape[1], generator)])
            vectors = STRATEGIES[kind](query.unsqueeze(1), negative, partner, draw.coefficient.unsqueeze(-1))
            synthetic[kind] = F.normalize(vectors, dim=-1)
        return synthetic

    def _check(self, query: Tensor, key: Tensor, queue: Tensor, generator: torch.Generator | None) -> None:
        check_contrastive_inputs(query, key, queue)
        if not (self.knows_lengths or torch.compiler.is_compiling()):
            self.knows_lengths = True
            _warn_of_other_lengths({"query": query, "key": key, "queue": queue})
        if len(queue) < self.config.num_hard_negatives:
            raise ValueError(
                f"num_hard_negatives={self.config.num_hard_negatives} exceeds the queue's {len(queue)} vectors; "
                "lower num_hard_negatives or enlarge the queue."
            )
        if generator is not None and generator.device.type != query.device.type:
            raise ValueError(
                f"the generator is on {generator.device} but the query on {query.device}; "
                f"make it with torch.Generator({query.device.type!r})."
            )


@torch.no_grad()
def _warn_of_other_lengths(vectors: Mapping[str, Tensor]) -> None:
    """One line where similarities would not be cosines, which the formulas of the six kinds take them for."""
    for name, rows in vectors.items():
        lengths = rows.float().norm(dim=1)
        apart = float((lengths - 1).abs().max())
        if not apart < _LENGTH_TOLERANCE:
            logger.warning(
                "%s has vectors of length %.3g to %.3g, but the loss and the synthetic negatives are those of unit "
                "vectors: pass torch.nn.functional.normalize(%s, dim=1).",
                *(name, float(lengths.min()), float(lengths.max()), name),
            )
