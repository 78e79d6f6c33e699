"""Where the paper and the authors' published code differ: the paper is the default, the code a group of flags.

What no flag can say stays with the paper: the authors' step counter ignores the number of processes, so their window
of synthesis moves with it; ours counts global steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synco_hub.errors import suggest

PAPER = "paper"
AUTHORS_CODE = "authors-code"
FIDELITIES = (PAPER, AUTHORS_CODE)

# Flags of the authors' code for every run, then for a method, then for a backbone.
_COMMON: Mapping[str, Any] = {
    "base_learning_rate": 1e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 5,
    "learning_rate_start": 5e-7,
    "learning_rate_end": 5e-6,
    "max_grad_norm": 5.0,
    "decay_tokens_and_tables": True,
}
_OF_METHOD: Mapping[str, Mapping[str, Any]] = {
    "synco-v2": {
        "num_gradient_perturbation": 64,
        "num_adversarial_perturbation": 64,
        "num_noise_injection": 64,
        "noise_std": 0.1,
        # Epochs 30 to 100 of 300, both included.
        "synthetic_warmup_epochs": 30,
        "synthetic_cooldown_epochs": 199,
    },
    "byol": {
        "base_learning_rate": 2e-4,
        "weight_decay": 0.03,
        "momentum_start": 0.996,
        "online_drop_path_rate": 0.2,
        "gradient_accumulation_steps": 1,
    },
}
_OF_BACKBONE: Mapping[str, Mapping[str, Any]] = {"deit-s": {"num_heads": 12}}


def fidelity_settings(fidelity: str, method: str, backbone: str) -> dict[str, Any]:
    """What a fidelity sets, by name of the flag; nothing for the paper, which is the default everywhere.

    Args:
        fidelity: `paper` or `authors-code`.
        method: `synco-v2`, `moby` or `byol`.
        backbone: Short name.

    Raises:
        ValueError: If there is no such fidelity, naming the nearest.
    """
    if fidelity not in FIDELITIES:
        raise ValueError(
            f"fidelity={fidelity!r} is unknown: use one of {', '.join(FIDELITIES)}.{suggest(fidelity, FIDELITIES)}"
        )
    if fidelity == PAPER:
        return {}
    return {**_COMMON, **_OF_METHOD.get(method, {}), **_OF_BACKBONE.get(backbone, {})}
