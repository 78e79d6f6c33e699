"""The whole pretraining state of a MoBY-like checkpoint under the names that `SynCoForPreTraining` loads.

The class itself lives with the trainers, which nothing here may import; what both agree on are the names of the
weights and the settings in `config.pretraining`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from synco_hub.hub.conversion.tensor_names import BackboneTensors
from synco_hub.hub.conversion.weights import finite

# A head is Linear, BatchNorm, ReLU, Linear (paper section 7.2); `linear_hidden.0` is an identity.
_LAYERS = {"linear_hidden.1.": "0.", "linear_hidden.2.": "1.", "linear_out.": "3."}
_QUEUES = {"queue1": "queue_1.keys", "queue2": "queue_2.keys"}
_POINTER = "queue_ptr"
# What the synco-v2 authors' code computes, whatever the file's configuration says: it does not reach their model. The
# trainers' group of flags for that code says the same; nothing here may import it.
AUTHORS_OBJECTIVE: Mapping[str, Any] = {
    "num_noise_injection": 64,
    "num_gradient_perturbation": 64,
    "num_adversarial_perturbation": 64,
    "noise_std": 0.1,
}


def find_pretraining_method(layout_name: str, parts: Mapping[str, Any], config: Any) -> str | None:
    """Which of the three methods made the checkpoint; None for another project's."""
    if layout_name not in ("synco-v2", "moby"):
        return None
    model = config.get("MODEL") if isinstance(config, Mapping) else None
    kind = model.get("TYPE") if isinstance(model, Mapping) else None
    said = {"synco": "synco-v2", "moby": "moby", "byol": "byol"}.get(str(kind))
    if said is not None:
        return said
    if "projector" in parts and "queue" not in parts:
        return "byol"
    return layout_name


def collect_pretraining_state(
    backbones: Mapping[str, BackboneTensors], parts: Mapping[str, Mapping[str, Any]], method: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and settings for `SynCoForPreTraining`."""
    lacking = [name for name in ("projector", "target_projector", "predictor") if name not in parts]
    if lacking or set(backbones) != {"online", "target"} or (method != "byol" and "queue" not in parts):
        raise ValueError(
            f"The file is no whole pretraining state of {method}: of both networks, three heads"
            f"{'' if method == 'byol' else ' and the queues'}, {lacking or 'a network or the queues'} are missing. "
            "Leave --whole-pretraining-state out to convert its backbone."
        )
    state: dict[str, Tensor] = {}
    for place, name in (("synco", "online"), ("target", "target")):
        tensors = backbones[name].tensors
        state |= {f"{place}.backbone.{key}": value.float() for key, value in tensors.items()}
    for name in ("projector", "target_projector", "predictor"):
        state |= _head(name, parts[name])
    hidden, _ = state["projector.0.weight"].shape
    settings: dict[str, Any] = {
        "method": method,
        "projection_hidden_dim": hidden,
        "projection_dim": state["projector.3.weight"].shape[0],
    }
    if "queue" in parts:
        queues = _queues(parts["queue"], settings["projection_dim"])
        state |= queues
        settings["queue_size"] = queues["queue_1.keys"].shape[0]
    if method == "synco-v2":
        settings |= AUTHORS_OBJECTIVE
    return state, settings


def _head(name: str, found: Mapping[str, Any]) -> dict[str, Tensor]:
    renamed, leftover = {}, []
    for key, value in found.items():
        beginning = next((text for text in _LAYERS if key.startswith(text)), None)
        if beginning is None:
            leftover.append(f"{name}.{key}")
        else:
            new = f"{name}.{_LAYERS[beginning]}{key.removeprefix(beginning)}"
            renamed[new] = finite(new, value)
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    due = {f"{name}.{layer}.{kind}" for layer in (0, 3) for kind in ("weight", "bias")}
    due |= {f"{name}.1.{kind}" for kind in norm}
    if leftover or due != set(renamed):
        raise ValueError(
            f"The {name} is not Linear, BatchNorm, ReLU, Linear: left over {leftover}, missing "
            f"{sorted(due - set(renamed))}. Leave --whole-pretraining-state out to convert the backbone alone."
        )
    return renamed


def _queues(found: Mapping[str, Any], dim: int) -> dict[str, Tensor]:
    """Queues (dim, size) become keys (size, dim); their one pointer becomes the position of both."""
    if unknown := sorted(set(found) ^ {*_QUEUES, _POINTER}):
        raise ValueError(f"The queues are not two with one pointer: {unknown} are missing or left over.")
    shapes = {tuple(found[key].shape) for key in _QUEUES}
    if len(shapes) != 1 or len(shape := next(iter(shapes))) != 2 or shape[0] != dim:
        raise ValueError(f"The queues have shapes {sorted(shapes)}, but ({dim}, size) is due for both.")
    pointer = found[_POINTER].reshape(-1)
    if pointer.numel() != 1 or not 0 <= int(pointer[0]) < shape[1]:
        raise ValueError(f"The queues' pointer is {pointer.tolist()}, but a place from 0 to {shape[1] - 1} is due.")
    state = {}
    for key, name in _QUEUES.items():
        state[name] = finite(key, found[key]).float().T.contiguous()
        state[name.replace("keys", "position")] = torch.tensor(int(pointer[0]), dtype=torch.long)
    return state
