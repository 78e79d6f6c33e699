"""What a run reports: means over the logging interval, kept on the device until they are logged."""

from __future__ import annotations

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from trainers.pretraining_model import PretrainingOutput


class TrainingMonitor:
    """Accumulates the outputs of micro-batches without synchronising the device; one transfer per logging step.

    It also remembers the first step whose loss was not finite.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._images = 0
        self._started = time.perf_counter()
        self._first_bad_step: Tensor | None = None

    def update(self, output: PretrainingOutput, num_images: int, step: int) -> None:
        """Add one micro-batch.

        Args:
            output: What the model returned.
            num_images: Images of the micro-batch on this process.
            step: Optimizer step it belongs to, counted from 0.
        """
        assert output.loss is not None
        loss = output.loss.detach()
        measured = {"contrast_accuracy": output.contrast_accuracy, "feature_std": output.feature_std}
        for name, value in measured.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        if self._first_bad_step is None:
            self._first_bad_step = torch.full_like(loss, -1.0)
        is_first = ~torch.isfinite(loss) & (self._first_bad_step < 0)
        self._first_bad_step = torch.where(is_first, torch.full_like(loss, float(step)), self._first_bad_step)
        self._count += 1
        self._images += num_images

    def first_bad_step(self) -> int | None:
        """The first optimizer step with a loss that is NaN or infinite, or None; waits for the device."""
        if self._first_bad_step is None:
            return None
        step = int(self._first_bad_step.item())
        return step if step >= 0 else None

    def collect(self, num_processes: int = 1) -> dict[str, float]:
        """Means since the last call, and images per second over all processes; waits for the device."""
        now = time.perf_counter()
        report = {name: float(total.item()) / max(self._count, 1) for name, total in self._sums.items()}
        report["images_per_second"] = round(self._images * num_processes / max(now - self._started, 1e-9), 2)
        self._sums, self._count, self._images, self._started = {}, 0, 0, now
        return report


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """ℓ2 norm of all gradients together, on their device, in a few fused calls. Shape: ()."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return torch.zeros(())
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
