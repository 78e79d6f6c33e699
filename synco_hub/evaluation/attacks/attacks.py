"""One batch of images under one attack: seeded, counted, and checked against the attack's own bound."""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from synco_hub.evaluation.attacks.attack_settings import INSTALL_HINT, LIBRARY, AttackSettings
from synco_hub.evaluation.attacks.pixel_classifier import PixelClassifier
from synco_hub.metrics import target_ranks

# Passing through float arithmetic (C&W's tanh) moves a value by less than this; 8-bit images differ by 4e-3.
UNCHANGED = 1e-6


@dataclass(frozen=True)
class AttackedBatch:
    """What an attack did to a batch, image by image.

    Attributes:
        indices: Positions of the images in the data set.
        correct: Whether the adversarial image is still classified correctly.
        linf: Largest change of a value.
        l2: Euclidean norm of the change.
        images_forwarded: Images that went through the classifier for the attack.
        seconds: Wall-clock time of the attack.
    """

    indices: tuple[int, ...]
    correct: tuple[bool, ...]
    linf: tuple[float, ...] = ()
    l2: tuple[float, ...] = ()
    images_forwarded: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """What :meth:`to_dict` gave."""
        restored: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**restored)


def attack_batch(
    model: PixelClassifier, attack: AttackSettings, images: Tensor, labels: Tensor, indices: Tensor, seed: int
) -> AttackedBatch:
    """Attack a batch.

    Args:
        model: The wrapped classifier.
        attack: Which attack.
        images: Values in [0, 1]. Shape: (batch, channels, height, width).
        labels: Class indices. Shape: (batch,).
        indices: Positions in the data set. Shape: (batch,).
        seed: Of everything that is drawn; the same seed and batch give the same result.

    Raises:
        ImportError: If torchattacks is not installed.
        ValueError: If an image leaves [0, 1] before or after the attack, or the attack breaks its bound.
    """
    check_pixels(images, "the images")
    device = model.mean.device
    images, labels = images.to(device), labels.to(device)
    already = model.images_forwarded
    started = time.perf_counter()
    adversarial = adversarial_images(model, attack, images, labels, seed)
    seconds = time.perf_counter() - started
    forwarded = model.images_forwarded - already
    change = (adversarial - images).double().flatten(1)
    _check_bound(attack, change.view_as(images))
    with torch.no_grad():
        correct = target_ranks(model(adversarial), labels) == 0
    return AttackedBatch(
        tuple(indices.tolist()),
        tuple(correct.tolist()),
        tuple(change.abs().amax(dim=1).tolist()),
        tuple(change.norm(dim=1).tolist()),
        forwarded,
        seconds,
    )


def adversarial_images(
    model: PixelClassifier, attack: AttackSettings, images: Tensor, labels: Tensor, seed: int
) -> Tensor:
    """Images that an attack makes.

    Args:
        model: The wrapped classifier.
        attack: Which attack.
        images: Values in [0, 1]. Shape: (batch, channels, height, width).
        labels: Class indices. Shape: (batch,).
        seed: Of everything that is drawn. The random states of torch and numpy are put back.

    Returns:
        Shape: that of the images.

    Raises:
        ImportError: If torchattacks is not installed.
    """
    with torch.no_grad():
        num_classes = model(images[:1]).shape[1]
        model.images_forwarded -= 1  # asked by us, not by the attack
    arguments = attack.library_arguments(num_classes, seed)
    make = getattr(require_library(), attack.library_name)
    with _seeded(seed, images.device), torch.enable_grad():
        adversarial: Tensor = make(model, **arguments)(images, labels).detach()
    check_pixels(adversarial, f"the images that {attack.title} made")
    return adversarial


def check_pixels(images: Tensor, whose: str) -> None:
    """Check that every value is in [0, 1].

    Raises:
        ValueError: Naming the range that was found.
    """
    least, most = float(images.min()), float(images.max())
    if not (least >= 0 and most <= 1):
        raise ValueError(
            f"{whose} have values from {least:.4g} to {most:.4g}: attacks work on pixels in [0, 1]; scale the images "
            "by 1/255 and leave the normalisation to the wrapper"
        )


def _check_bound(attack: AttackSettings, change: Tensor) -> None:
    largest, bound = float(change.abs().max()), attack.largest_change
    if bound is not None and largest > bound + UNCHANGED:
        raise ValueError(f"{attack.title} changed a pixel by {largest:.6f}, its bound is {bound:.6f}: do not use it")
    pixels = getattr(attack, "pixels", None)
    if pixels is not None and int((change != 0).any(dim=1).flatten(1).sum(dim=1).max()) > pixels:
        raise ValueError(f"{attack.title} changed more than {pixels} pixel of an image: do not use it")


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch and numpy's old global generator, which the library draws from, and puts both back."""
    devices = [device] if device.type == "cuda" else []
    state = np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(state)


def require_library() -> Any:
    """The module torchattacks.

    Raises:
        ImportError: If it is not installed; the text has the command that installs it.
    """
    try:
        return importlib.import_module(LIBRARY)
    except ImportError as error:
        raise ImportError(f"adversarial attacks need torchattacks ({error}): {INSTALL_HINT}") from None
