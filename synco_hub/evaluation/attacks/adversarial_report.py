"""Numbers and words about finished attacks: accuracy, size of the change, work, and which attack did nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from synco_hub.evaluation.attacks.attack_settings import AttackSettings
from synco_hub.evaluation.attacks.attacks import UNCHANGED, AttackedBatch

Batches = Sequence[AttackedBatch]


def accuracy(batches: Batches) -> float:
    """Top-1 accuracy in percent.

    Raises:
        ValueError: If there is no image.
    """
    count = _count(batches)
    if count == 0:
        raise ValueError("no image could be read: an accuracy needs at least one; check the files of the data set")
    return 100.0 * sum(sum(batch.correct) for batch in batches) / count


def is_null(batches: Batches) -> bool:
    """Whether every input is as it was, up to the rounding of floats."""
    return all(max(batch.linf, default=0.0) <= UNCHANGED for batch in batches)


def attack_metrics(name: str, batches: Batches) -> dict[str, float]:
    """Metrics of one attack.

    Args:
        name: Ends the metrics' names.
        batches: All its batches.

    Returns:
        ``top1`` in percent, missing for a null attack, whose accuracy would read like robustness; mean and largest
        ℓ∞ and ℓ2 change for pixels in [0, 1]; forwards and seconds an image.
    """
    count = _count(batches)
    linf = [value for batch in batches for value in batch.linf]
    l2 = [value for batch in batches for value in batch.l2]
    measured = {
        f"linf_mean_{name}": sum(linf) / count,
        f"linf_max_{name}": max(linf),
        f"l2_mean_{name}": sum(l2) / count,
        f"l2_max_{name}": max(l2),
        f"forwards_per_image_{name}": forwards(batches) / count,
        f"seconds_per_image_{name}": sum(batch.seconds for batch in batches) / count,
    }
    return measured if is_null(batches) else {f"top1_{name}": accuracy(batches), **measured}


def attack_facts(attack: AttackSettings, batches: Batches | None) -> dict[str, Any]:
    """What a result says about an attack.

    Args:
        attack: Its settings.
        batches: All its batches, None if it is not finished.
    """
    facts: dict[str, Any] = {"parameters": asdict(attack), "library defaults": list(attack.from_library)}
    if batches is not None:
        changed = sum(value > UNCHANGED for batch in batches for value in batch.linf)
        facts |= {"null": is_null(batches), "forwards": forwards(batches), "changed images": changed}
    return facts


def forwards(batches: Batches) -> int:
    """Images that an attack sent through the classifier."""
    return sum(batch.images_forwarded for batch in batches)


def null_note(name: str, batches: Batches, clean: Batches) -> str:
    """One sentence about an attack that did nothing."""
    why = ""
    if not any(any(batch.correct) for batch in clean):
        why = " (no clean image is classified correctly, so there was nothing to attack)"
    elif name == "cw":
        why = " (the paper's constant of 1e-4 with the library's early stop can do that)"
    return (
        f"{name} is null: it left all {_count(batches)} inputs as they were after {forwards(batches)} images "
        f"forwarded{why}; no accuracy is given for it"
    )


def missing_note(attacks: Mapping[str, AttackSettings], measured: Sequence[str]) -> list[str]:
    """A sentence naming the attacks that are not finished; none if all are."""
    missing = [name for name in attacks if name not in measured]
    return [f"not finished: {', '.join(missing)}"] if missing else []


def _count(batches: Batches) -> int:
    return sum(len(batch.correct) for batch in batches)
