"""Which tensor of a checkpoint belongs to which network, head or queue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synco_hub.hub.conversion.layouts import Layout
from synco_hub.hub.conversion.recognition import Recognised
from synco_hub.hub.conversion.source import CheckpointSource, weights_in

# The names of the parts of a checkpoint; `online` and `target` are backbones.
BACKBONES_OF_A_PAIR = ("online", "target")


@dataclass(frozen=True)
class Parts:
    """A checkpoint's tensors by part, keys without the part's beginning.

    Attributes:
        tensors: `online`, `target`, `projector`, `target_projector`, `predictor`, `queue` to key to tensor.
        dropped: What is at the top of the file beside the weights: name to reason.
        leftover: Keys that belong to no part.
    """

    tensors: dict[str, dict[str, Any]]
    dropped: dict[str, str]
    leftover: list[str]


def split_parts(source: CheckpointSource, recognised: Recognised) -> Parts:
    """Sort every tensor of a checkpoint into its part.

    Raises:
        ValueError: If the layout's dictionary of weights is not there.
    """
    layout = recognised.layout
    if recognised.name == "dino" and {"student", "teacher"} & set(source.content):
        return _split_dino(source, layout)
    container = layout.container
    if container is None:
        container = next((k for k in ("model", "state_dict") if isinstance(source.content.get(k), Mapping)), None)
    state = weights_in(source, container)
    parts, leftover = _sorted_keys(state, layout.parts)
    if not {"online", "target"} & set(parts):
        # A plain backbone, as linear probes and timm write it: every key is the online network's.
        parts, leftover = {"online": {key.removeprefix("module."): value for key, value in state.items()}}, []
    dropped = {} if state is source.content else _beside(source.content, {container})
    return Parts(parts, dropped, leftover)


def _split_dino(source: CheckpointSource, layout: Layout) -> Parts:
    """The student is the online network, the teacher the target."""
    found: dict[str, dict[str, Any]] = {}
    leftover: list[str] = []
    for key, backbone, head in (("student", "online", "projector"), ("teacher", "target", "target_projector")):
        if key in source.content:
            parts, left = _sorted_keys(weights_in(source, key), layout.parts)
            found |= {{"online": backbone, "projector": head}[name]: tensors for name, tensors in parts.items()}
            leftover += [f"{key}.{name}" for name in left]
    return Parts(found, _beside(source.content, {"student", "teacher"}), leftover)


def _sorted_keys(
    state: Mapping[str, Any], beginnings: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    parts: dict[str, dict[str, Any]] = {}
    leftover = []
    for key, value in state.items():
        bare = key.removeprefix("module.")
        beginning = next((text for text in beginnings if bare.startswith(text)), None)
        if beginning is None:
            leftover.append(key)
            continue
        # `queue1` keeps its name: there the beginning is part of it.
        name = bare.removeprefix(beginning) if beginning.endswith(".") else bare
        parts.setdefault(beginnings[beginning], {})[name] = value
    return parts, leftover


def _beside(content: Mapping[str, Any], used: set[str | None]) -> dict[str, str]:
    reasons = {"optimizer": "state of the optimizer", "lr_scheduler": "state of the schedule"}
    return {str(key): reasons.get(str(key), "no weights of the networks") for key in content if key not in used}
