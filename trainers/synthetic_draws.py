"""The settings of the synthetic negatives, and everything about them that chance decides.

The fused loss and the readable definition make the same vectors from the same draws, so the draws stand apart from
both. All randomness comes from one generator in one fixed order: first the draws of each kind; then, where they are
wanted, noise vectors, some queries at a time. The same generator state gives the same bits on the same device, eager
or compiled.

Source: paper §7.4 for every number and range.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainers.settings import SyntheticNegativesConfig

# Vectors in work at a time, in bytes: on a CPU few calls within its caches, on an accelerator in little memory.
CPU_CHUNK_BYTES = 2**22
ACCELERATOR_CHUNK_BYTES = 3 * 2**23


@dataclass(frozen=True)
class Draw:
    """What chance decides about the synthetic negatives of one kind.

    Attributes:
        negative: Which of the query's hard negatives n is. Shape: (batch, count), in [0, num_hard_negatives).
        coefficient: α, β, γ, σ, δ or η. Shape: (batch, count) if drawn, (1, 1) if constant.
        partner: Mixup: which of the hard negatives n′ is. Shape: (batch, count).
    """

    negative: Tensor
    coefficient: Tensor
    partner: Tensor | None = None


def draw_synthetic(
    config: SyntheticNegativesConfig, query: Tensor, generator: torch.Generator | None = None
) -> dict[str, Draw]:
    """Draws all that is random about the synthetic negatives of a batch, apart from noise vectors.

    Args:
        config: Settings.
        query: Gives batch size, dim, dtype and device. Shape: (batch, dim).
        generator: Source of randomness on the query's device; None means the device's global one.
    """
    ranges = {
        "interpolation": config.interpolation_range,
        "extrapolation": config.extrapolation_range,
        "mixup": config.mixup_range,
        "noise_injection": (config.noise_std, config.noise_std),
        "gradient_perturbation": (config.gradient_step, config.gradient_step),
        "adversarial_perturbation": (config.adversarial_step, config.adversarial_step),
    }
    draws = {}
    for kind, count in config.active_counts.items():
        shape = (query.shape[0], count)
        draws[kind] = Draw(
            negative=_choices(config.num_hard_negatives, shape, query, generator),
            coefficient=_uniform(*ranges[kind], shape, query, generator),
            partner=_choices(config.num_hard_negatives, shape, query, generator) if kind == "mixup" else None,
        )
    return draws


def draw_noise(query: Tensor, count: int, generator: torch.Generator | None = None) -> Iterator[Tensor]:
    """Yields standard normal noise vectors chunk by chunk of `query_chunks`, each time in the same memory.

    The caller draws nothing else in between, so whether it keeps them or not, they are the same vectors.

    Args:
        query: Gives batch size, dim, dtype and device. Shape: (batch, dim).
        count: Vectors a query.
        generator: As in `draw_synthetic`.

    Yields:
        Noise of a few queries. Shape: (queries, count, dim).
    """
    chunks = query_chunks(query, count)
    memory = query.new_empty(chunks[0].stop, count, query.shape[1])
    for queries in chunks:
        yield memory[: queries.stop - queries.start].normal_(generator=generator)


def query_chunks(query: Tensor, count: int) -> list[slice]:
    """Cuts a batch into runs of queries whose `count` vectors each are few enough to be in work at a time.

    Since the runs decide how noise is drawn, they depend on nothing but shape, dtype and kind of device.
    """
    batch, dim = query.shape
    chunk_bytes = CPU_CHUNK_BYTES if query.device.type == "cpu" else ACCELERATOR_CHUNK_BYTES
    length = max(1, chunk_bytes // (count * dim * query.element_size()))
    return [slice(start, min(start + length, batch)) for start in range(0, batch, length)]


def _choices(num: int, shape: tuple[int, int], query: Tensor, generator: torch.Generator | None) -> Tensor:
    # A trace with sizes that change takes no generator, not even None (torch 2.15).
    source: dict[str, Any] = {} if generator is None else {"generator": generator}
    return torch.randint(num, shape, device=query.device, **source)


def _uniform(
    low: float, high: float, shape: tuple[int, int], query: Tensor, generator: torch.Generator | None
) -> Tensor:
    if low == high:
        return query.new_full((1, 1), low)
    return query.new_empty(shape).uniform_(low, high, generator=generator)
