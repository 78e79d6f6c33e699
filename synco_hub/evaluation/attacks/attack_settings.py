"""The seven attacks of Table 14, each with its numbers once; what the paper does not say is the library's default.

Source: paper, section 8.3; torchattacks 3.5.1. The paper names ε for FGSM, PGD and TIFGSM only: Square and AutoAttack
take the library's 8/255, which is the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, TypeVar

PAPER_EPSILON = 8 / 255
LIBRARY = "torchattacks"
INSTALL_HINT = "install it with `pip install --no-deps torchattacks==3.5.1` (its pin of requests is never used)"


@dataclass(frozen=True)
class AttackSettings:
    """What every attack has.

    Attributes:
        library_name: Class of torchattacks.
        title: Name in the paper's Table 14.
        from_library: Settings that the paper does not give.
        follows_gradient: Whether each step goes along the sign of the gradient: such an attack always moves the
            input, unless the gradient is zero.
    """

    library_name: ClassVar[str]
    title: ClassVar[str]
    from_library: ClassVar[tuple[str, ...]] = ()
    follows_gradient: ClassVar[bool] = False

    @property
    def largest_change(self) -> float | None:
        """Largest allowed change of a value in [0, 1], None where the attack has no such bound."""
        return getattr(self, "epsilon", None)

    def library_arguments(self, num_classes: int, seed: int) -> dict[str, Any]:
        """Keyword arguments of the class of torchattacks.

        Args:
            num_classes: Classes of the classifier.
            seed: For the attacks that seed themselves.
        """
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

    With the paper's constant of 1e-4 and the library's early stop it may return every input as it was.
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
    from_library = ("epsilon", "version", "target_classes")
    epsilon: float = PAPER_EPSILON
    version: str = "standard"
    target_classes: int = 9

    def library_arguments(self, num_classes: int, seed: int) -> dict[str, Any]:
        """As the base class; the library counts the true class too.

        Raises:
            ValueError: If there are fewer than four classes.
        """
        if num_classes < 4:
            raise ValueError(
                f"AutoAttack on {num_classes} classes: its targeted loss compares the four largest logits; leave it "
                "out (--attacks), or take a classifier of four classes or more"
            )
        counted = min(self.target_classes + 1, num_classes)
        return {
            "norm": "Linf",
            "eps": self.epsilon,
            "version": self.version,
            "n_classes": counted,
            "seed": seed,
        }


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


def with_epsilon(settings: Settings, epsilon: float) -> Settings:
    """The same attack with another bound; the step size keeps its share of the bound.

    Args:
        settings: An attack.
        epsilon: Largest change of a value in [0, 1].

    Returns:
        The attack itself if it has no such bound.

    Raises:
        ValueError: If the bound is not in [0, 1].
    """
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


def chosen_attacks(names: str, epsilon: float | None = None) -> dict[str, AttackSettings]:
    """Attacks by name.

    Args:
        names: Keys of `ATTACKS` separated by commas; "all" for every one.
        epsilon: Another bound for those that have one; None keeps the paper's.

    Raises:
        ValueError: If a name is unknown or none is given.
    """
    wanted = list(ATTACKS) if names.strip() == "all" else [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in ATTACKS]
    if unknown or not wanted:
        raise ValueError(f"attacks {names!r}: {unknown or 'none'} given, known are {', '.join(ATTACKS)} and all")
    chosen = {name: ATTACKS[name] for name in dict.fromkeys(wanted)}
    return chosen if epsilon is None else {name: with_epsilon(attack, epsilon) for name, attack in chosen.items()}
