"""The seven attacks of Table 14, each with its numbers once, and one batch of images under one of them.

Batches are seeded, counted, and checked against the attack's own bound. What the paper does not say is the library's
default.

Source: paper, section 8.3; torchattacks 3.5.1. The paper names ε for FGSM, PGD and TIFGSM only: Square and AutoAttack
take the library's 8/255, which is the same number.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from synco_hub.features import eval_mode
from synco_hub.metrics import target_ranks

PAPER_EPSILON = 8 / 255
_LIBRARY = "torchattacks"
_INSTALL_HINT = "install it with `pip install --no-deps torchattacks==3.5.1` (its pin of requests is never used)"


@dataclass(frozen=True)
class AttackSettings:
    """What every attack has.

    Attributes:
        library_name: Class of torchattacks.
        title: Name in the paper's Table 14.
        from_library: Settings that the paper does not give.
        follows_gradient: Whether each step goes along the sign of the gradient: such an attack always moves the
            input, unless the gradient is zero.
        returns_failures_unchanged: Whether an image that it cannot fool comes back as it was: unchanged inputs are
            then what was measured.
        least_classes: Of how many classes it needs the logits.
    """

    library_name: ClassVar[str]
    title: ClassVar[str]
    from_library: ClassVar[tuple[str, ...]] = ()
    follows_gradient: ClassVar[bool] = False
    returns_failures_unchanged: ClassVar[bool] = False
    least_classes: ClassVar[int] = 2

    @property
    def largest_change(self) -> float | None:
        """Largest allowed change of a value in [0, 1], None where the attack has no such bound."""
        return getattr(self, "epsilon", None)

    def library_arguments(self, num_classes: int, seed: int) -> dict[str, Any]:
        """Keyword arguments of the library's class; some attacks want the number of classes, or seed themselves."""
        del num_classes, seed
        names = {"epsilon": "eps", "step_size": "alpha"}
        return {names.get(key, key): value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class FGSM(AttackSettings):
    """Fast gradient sign method, one step within ℓ∞."""

    library_name = "FGSM"
    title = "FGSM"
    follows_gradient = True
    epsilon: float = PAPER_EPSILON


@dataclass(frozen=True)
class PGD(AttackSettings):
    """Projected gradient descent within ℓ∞."""

    library_name = "PGD"
    title = "PGD"
    from_library = ("random_start",)
    follows_gradient = True
    epsilon: float = PAPER_EPSILON
    step_size: float = 2 / 255
    steps: int = 10
    random_start: bool = True


@dataclass(frozen=True)
class CarliniWagner(AttackSettings):
    """Carlini and Wagner's smallest ℓ2 perturbation, without their search for the constant.

    With the paper's constant and the library's early stop it may return every input as it was.
    """

    library_name = "CW"
    title = "C&W"
    constant: float = 1e-4
    confidence: float = 0.0
    steps: int = 50
    learning_rate: float = 0.01

    def library_arguments(self, num_classes: int, seed: int) -> dict[str, Any]:
        """As the base class; the library writes c, kappa and lr."""
        return {"c": self.constant, "kappa": self.confidence, "steps": self.steps, "lr": self.learning_rate}


@dataclass(frozen=True)
class Square(AttackSettings):
    """Random search by squares within ℓ∞; sees scores only."""

    library_name = "Square"
    title = "Square"
    returns_failures_unchanged = True
    from_library = ("epsilon", "restarts", "first_share")
    epsilon: float = PAPER_EPSILON
    queries: int = 1000
    restarts: int = 1
    first_share: float = 0.8

    def library_arguments(self, num_classes: int, seed: int) -> dict[str, Any]:
        """As the base class, with the library's names."""
        return {
            "norm": "Linf",
            "eps": self.epsilon,
            "n_queries": self.queries,
            "n_restarts": self.restarts,
            "p_init": self.first_share,
            "seed": seed,
        }


@dataclass(frozen=True)
class AutoAttack(AttackSettings):
    """APGD on cross-entropy, targeted APGD, targeted FAB and Square (5,000 queries), one after the other, within ℓ∞.

    The targeted ones try the `target_classes` most likely wrong classes: nine in the original and by default in the
    library, however many classes there are.
    """

    library_name = "AutoAttack"
    title = "Auto"
    returns_failures_unchanged = True
    least_classes = 4  # its targeted loss compares the four largest logits
    from_library = ("epsilon", "version", "target_classes")
    epsilon: float = PAPER_EPSILON
    version: str = "standard"
    target_classes: int = 9

    def library_arguments(self, num_classes: int, seed: int) -> dict[str, Any]:
        """As the base class; the library counts the true class too."""
        counted = min(self.target_classes + 1, num_classes)
        bound = {"norm": "Linf", "eps": self.epsilon}
        return {**bound, "version": self.version, "n_classes": counted, "seed": seed}


@dataclass(frozen=True)
class TIFGSM(AttackSettings):
    """Translation-invariant iterative FGSM within ℓ∞: gradients smoothed by a Gaussian, inputs sometimes resized."""

    library_name = "TIFGSM"
    title = "TIFGSM"
    from_library = ("decay", "kernel_name", "len_kernel", "nsig", "resize_rate", "diversity_prob", "random_start")
    follows_gradient = True
    epsilon: float = PAPER_EPSILON
    step_size: float = 2 / 255
    steps: int = 10
    decay: float = 0.0
    kernel_name: str = "gaussian"
    len_kernel: int = 15
    nsig: int = 3
    resize_rate: float = 0.9
    diversity_prob: float = 0.5
    random_start: bool = False


@dataclass(frozen=True)
class OnePixel(AttackSettings):
    """Differential evolution over place and colour of one pixel; sees probabilities only."""

    library_name = "OnePixel"
    title = "OnePixel"
    from_library = ("popsize", "inf_batch")
    pixels: int = 1
    steps: int = 10
    popsize: int = 10
    inf_batch: int = 128


ATTACKS: Mapping[str, AttackSettings] = {
    "fgsm": FGSM(),
    "pgd": PGD(),
    "cw": CarliniWagner(),
    "square": Square(),
    "autoattack": AutoAttack(),
    "tifgsm": TIFGSM(),
    "one_pixel": OnePixel(),
}

Settings = TypeVar("Settings", bound=AttackSettings)


def replace_epsilon(settings: Settings, epsilon: float) -> Settings:
    """The same attack with another bound, of which the step size keeps its share; itself if it has no such bound."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon={epsilon}: pixels lie in [0, 1], and so does their largest change; give 8/255")
    old = settings.largest_change
    if old is None:
        return settings
    changes: dict[str, Any] = {"epsilon": epsilon}
    step_size = getattr(settings, "step_size", None)
    if step_size is not None:
        changes["step_size"] = step_size * epsilon / old
    return replace(settings, **changes)


def parse_fraction(text: str) -> float:
    """Read a number or a fraction of two."""
    above, _, below = text.partition("/")
    try:
        return float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is neither a number nor a fraction: write for example 8/255 or 0.03") from None


def choose_attacks(names: str, epsilon: float | None = None) -> dict[str, AttackSettings]:
    """Attacks by names with commas between, or "all"; `epsilon` replaces the paper's bound where there is one."""
    wanted = list(ATTACKS) if names.strip() == "all" else [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in ATTACKS]
    if unknown or not wanted:
        raise ValueError(f"attacks {names!r}: {unknown or 'none'} given, known are {', '.join(ATTACKS)} and all")
    chosen = {name: ATTACKS[name] for name in dict.fromkeys(wanted)}
    return chosen if epsilon is None else {name: replace_epsilon(attack, epsilon) for name, attack in chosen.items()}


class PixelClassifier(nn.Module):
    """Images in [0, 1] in, logits out, the normalisation inside; counts what passes in `images_forwarded`."""

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.images_forwarded = 0

    def forward(self, images: Tensor) -> Tensor:
        """Float32 logits (batch, num_classes) of images (batch, channels, height, width) with values in [0, 1]."""
        self.images_forwarded += len(images)
        images = images.to(self.mean.device)
        # In this order torchvision normalises too: the same bits as the plain evaluation.
        return self.plain_logits((images - self.mean) / self.std)

    def plain_logits(self, normalised: Tensor) -> Tensor:
        """Logits of images that are normalised already, float32; not counted."""
        output: Any = self.classifier(pixel_values=normalised.to(self.mean.device))
        logits: Tensor = output.logits
        return logits.float()


@contextmanager
def make_attackable(
    classifier: nn.Module, mean: Sequence[float], std: Sequence[float], device: torch.device | str | None
) -> Iterator[PixelClassifier]:
    """Yield the wrapped classifier in eval mode on a device, its parameters without gradients; then put all back."""
    flags = [(parameter, parameter.requires_grad) for parameter in classifier.parameters()]
    with eval_mode(classifier, device) as network:
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
    """Attack images (batch, channels, height, width) in [0, 1]; the same seed and batch give the same result.

    `labels` are class indices (batch,), `indices` positions in the data set (batch,).
    """
    _check_pixels(images, "the images")
    device = model.mean.device
    images, labels = images.to(device), labels.to(device)
    already = model.images_forwarded
    started = time.perf_counter()
    adversarial = attack_images(model, attack, images, labels, seed)
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


def attack_images(model: PixelClassifier, attack: AttackSettings, images: Tensor, labels: Tensor, seed: int) -> Tensor:
    """Images that an attack makes, of the same shape; the random states of torch and numpy are put back."""
    with torch.no_grad():
        num_classes = model(images[:1]).shape[1]
        model.images_forwarded -= 1  # asked by us, not by the attack
    arguments = attack.library_arguments(num_classes, seed)
    make = getattr(require_library(), attack.library_name)
    with _seeded(seed, images.device), torch.enable_grad():
        adversarial: Tensor = make(model, **arguments)(images, labels).detach()
    _check_pixels(adversarial, f"the images that {attack.title} made")
    return adversarial


def _check_pixels(images: Tensor, whose: str) -> None:
    """Refuse values outside [0, 1], naming their range."""
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
    """The module torchattacks; where it is not installed the error has the command that installs it."""
    try:
        return importlib.import_module(_LIBRARY)
    except ImportError as error:
        raise ImportError(f"adversarial attacks need torchattacks ({error}): {_INSTALL_HINT}") from None
