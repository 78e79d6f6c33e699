"""A classifier as attacks need it: images in [0, 1] in, logits out, the normalisation inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from synco_hub.frozen import frozen


class PixelClassifier(nn.Module):
    """Normalises, classifies, and counts what passes.

    Args:
        classifier: Takes normalised images and gives ``logits``.
        mean: Per channel, for values in [0, 1].
        std: Per channel, for values in [0, 1].

    Attributes:
        images_forwarded: Images that went through so far.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.images_forwarded = 0

    def forward(self, images: Tensor) -> Tensor:
        """Classify.

        Args:
            images: Values in [0, 1]. Shape: (batch, channels, height, width).

        Returns:
            Logits, float32. Shape: (batch, num_classes).
        """
        self.images_forwarded += len(images)
        images = images.to(self.mean.device)
        # In this order torchvision normalises too: the same bits as the plain evaluation.
        return self.plain_logits((images - self.mean) / self.std)

    def plain_logits(self, normalised: Tensor) -> Tensor:
        """Logits of images that are normalised already, float32; not counted."""
        output: Any = self.classifier(normalised.to(self.mean.device))
        logits: Tensor = output.logits
        return logits.float()


@contextmanager
def attackable(
    classifier: nn.Module, mean: Sequence[float], std: Sequence[float], device: torch.device | str | None
) -> Iterator[PixelClassifier]:
    """Yield the wrapped classifier in eval mode on a device, its parameters without gradients; then put all back.

    Args:
        classifier: Takes normalised images and gives ``logits``.
        mean: Per channel, for values in [0, 1].
        std: Per channel, for values in [0, 1].
        device: Where it runs; None for where it is.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    with frozen(classifier, device) as network:
        home = next(network.parameters()).device
        wrapper = PixelClassifier(network, mean, std).to(home).eval()
        try:
            # Attacks need gradients of the pixels only: those of the weights would cost half as much again.
            for parameter, _ in flags:
                parameter.requires_grad_(False)
            yield wrapper
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
