"""InfoNCE against a queue of negatives: the loss of MoBY, and the last step of SynCo-v2's loss.

For one query q, its key k and negatives n_j, with l = ⟨q, ·⟩ / τ,

    loss = −log( e^{l_k} / (e^{l_k} + Σ_j e^{l_j}) ) = softplus( L − l_k ),   L = log Σ_j e^{l_j}.

So InfoNCE is a logistic loss of the positive logit against the negatives' log-sum-exp. With p = sigmoid(L − l_k), the
probability not given to the key, its gradients are

    ∂loss/∂q = p · (n̄ − k) / τ,   ∂loss/∂k = −p · q / τ,   n̄ = Σ_j softmax(l)_j · n_j  (the mean negative).

Both are known after the forward pass and computed there, in one (batch, num_negatives) buffer: nothing that large
waits for backward, and neither p nor the loss suffers from cancellation when the key wins clearly.

Source: paper §7.4 (temperature 0.2, queue of 4096); Oord et al. 2018, equation 4; He et al. 2020 (MoCo), equation 1.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from trainers.settings import check_temperature


class ContrastiveOutput(NamedTuple):
    """What a contrastive loss reports for a batch.

    Attributes:
        loss: Mean InfoNCE over the batch, differentiable in query and key. Shape: ().
        accuracy: Share of the batch whose positive logit is above every negative's, detached. Shape: ().
    """

    loss: Tensor
    accuracy: Tensor


class NegativeSummary(NamedTuple):
    """All that InfoNCE needs to know about a query's negatives, however many there are.

    Attributes:
        maximum: Largest negative logit. Shape: (batch, 1).
        log_sum_exp: L, the log of the summed exponentials of the negative logits. Shape: (batch, 1).
        mean: n̄, the softmax-weighted mean negative; None where no gradient is wanted. Shape: (batch, dim).
    """

    maximum: Tensor
    log_sum_exp: Tensor
    mean: Tensor | None


def info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.2) -> ContrastiveOutput:
    """InfoNCE of queries against their keys and a queue of negatives: MoBY's loss.

    Half-precision inputs are computed in float32, also under autocast. The queue gets no gradient.

    Args:
        query: Predictions of the online branch, unit norm. Shape: (batch, dim).
        key: Projections of the target branch, unit norm; row i is the positive of query i. Shape: (batch, dim).
        queue: Keys of earlier batches, unit norm. Shape: (num_negatives, dim).
        temperature: τ > 0.

    Source: paper §7.4; Xie et al. 2021 (MoBY), equation 1.
    """
    check_temperature(temperature)
    check_contrastive_inputs(query, key, queue)
    with_mean = needs_gradient(query)
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        exact_query, exact_queue = promote_precision(query, queue)
        logits = (exact_query / temperature) @ exact_queue.T
        maximum = logits.amax(dim=1, keepdim=True)
        weights = logits.sub_(maximum).exp_()
        total = weights.sum(dim=1, keepdim=True)
        mean = weights @ exact_queue / total if with_mean else None
        negatives = NegativeSummary(maximum, maximum + total.log(), mean)
    return contrast_with_summary(query, key, negatives, temperature)


def contrast_with_summary(
    query: Tensor, key: Tensor, negatives: NegativeSummary, temperature: float
) -> ContrastiveOutput:
    """InfoNCE of queries against their keys, given a summary of the negatives.

    Args:
        query: Shape: (batch, dim).
        key: Shape: (batch, dim).
        negatives: Summary of each query's negatives.
        temperature: τ > 0.
    """
    with_key_gradient = needs_gradient(key)
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        exact_query, exact_key = promote_precision(query, key)
        positive = (exact_query * exact_key).sum(dim=1, keepdim=True) / temperature
        margin = negatives.log_sum_exp - positive
        # softplus by its name in torch switches to the identity at 20; −logsigmoid is exact everywhere.
        loss = -F.logsigmoid(-margin).mean()
        accuracy = (positive > negatives.maximum).to(positive.dtype).mean()
        pull = margin.sigmoid() / (temperature * query.shape[0])
        query_gradient = pull * (negatives.mean - exact_key) if negatives.mean is not None else None
        key_gradient = -pull * exact_query if with_key_gradient else None
    loss = _LossOfKnownGradient.apply(query, key, loss, query_gradient, key_gradient)  # type: ignore[no-untyped-call]
    return ContrastiveOutput(loss, accuracy)


class _LossOfKnownGradient(torch.autograd.Function):
    """A loss whose gradient was computed together with its value."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, loss: Tensor, query_gradient: Tensor | None, key_gradient: Tensor | None
    ) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        query, key, _, query_gradient, key_gradient = inputs
        ctx.dtypes = query.dtype, key.dtype
        ctx.save_for_backward(query_gradient, key_gradient)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, loss_gradient: Tensor) -> tuple[Tensor | None, ...]:
        gradients = (
            None if gradient is None else (loss_gradient * gradient).to(dtype)
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*gradients, None, None, None)


def needs_gradient(tensor: Tensor) -> bool:
    """Whether a loss computed now has to provide a gradient for this tensor."""
    return torch.is_grad_enabled() and tensor.requires_grad


def promote_precision(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Brings tensors to one floating-point type, at least float32: exponentials of logits need its digits."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def check_contrastive_inputs(query: Tensor, key: Tensor, queue: Tensor) -> None:
    """Refuses inputs of a contrastive loss that do not belong together.

    Args:
        query: Must have shape (batch, dim), batch ≥ 1.
        key: Must have the query's shape.
        queue: Must have shape (num_negatives, dim), num_negatives ≥ 1.
    """
    if query.ndim != 2 or 0 in query.shape:
        raise ValueError(f"query has shape {tuple(query.shape)} but must be (batch, dim), not empty; flatten it.")
    if key.shape != query.shape:
        raise ValueError(
            f"key has shape {tuple(key.shape)} but must have the query's {tuple(query.shape)}; pass one key a query."
        )
    if queue.ndim != 2 or len(queue) == 0 or queue.shape[1] != query.shape[1]:
        raise ValueError(
            f"queue has shape {tuple(queue.shape)} but must be (num_negatives, {query.shape[1]}), not empty; "
            "store one negative a row (transpose a queue of columns)."
        )
    for name, tensor in (("query", query), ("key", key), ("queue", queue)):
        if not tensor.is_floating_point():
            raise ValueError(f"{name} has dtype {tensor.dtype} but must be floating point; convert it with .float().")
        if tensor.device != query.device:
            raise ValueError(
                f"{name} is on {tensor.device} but the query on {query.device}; move both to the same device."
            )
