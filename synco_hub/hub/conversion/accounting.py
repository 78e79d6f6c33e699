"""Where every tensor of a converted file went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synco_hub.hub.conversion.parts import BACKBONES_OF_A_PAIR, Parts
from synco_hub.hub.conversion.source import CheckpointSource, tensors_in
from synco_hub.hub.conversion.timm_names import BackboneTensors


def account(
    source: CheckpointSource,
    parts: Parts,
    backbones: Mapping[str, BackboneTensors],
    whole: bool,
    own_head: bool,
) -> tuple[dict[str, int], list[dict[str, Any]], int]:
    """Count what is carried over and list what is not.

    Args:
        source: The file.
        parts: Its tensors by part.
        backbones: The backbones that are carried over.
        whole: Whether heads and queues are carried over too.
        own_head: Whether the file's own classifier is used, if it has one.

    Returns:
        Part to number of tensors; rows of `what`, `reason`, `tensors` and `keys`; and the number of tensors in the
        file, which is the sum of both.
    """
    mapped: dict[str, int] = {}
    dropped: list[dict[str, Any]] = []
    for name, tensors in parts.tensors.items():
        if name in backbones:
            backbone = backbones[name]
            mapped[name] = len(tensors) - len(backbone.dropped) - len(backbone.head)
            dropped += _by_reason(name, backbone.dropped)
            if backbone.head and own_head:
                mapped["classifier"] = len(backbone.head)
            elif backbone.head:
                dropped.append(_row("classifier", "the one of --head is used", list(backbone.head)))
        elif whole:
            mapped[name] = len(tensors)
        else:
            reason = "the other network" if name in BACKBONES_OF_A_PAIR else "part of the pretraining state"
            dropped.append(_row(name, reason, list(tensors)))
    for key, reason in parts.dropped.items():
        count = sum(1 for _ in tensors_in(source.content[key]))
        dropped.append({"what": key, "reason": reason, "tensors": count, "keys": []})
    total = sum(1 for _ in tensors_in(dict(source.content)))
    accounted = sum(mapped.values()) + sum(row["tensors"] for row in dropped)
    assert accounted == total, f"{accounted} of {total} tensors are accounted for"
    return mapped, dropped, total


def _by_reason(name: str, dropped: Mapping[str, str]) -> list[dict[str, Any]]:
    reasons = sorted(set(dropped.values()))
    return [_row(f"keys of {name}", why, [key for key in dropped if dropped[key] == why]) for why in reasons]


def _row(what: str, reason: str, keys: list[str]) -> dict[str, Any]:
    return {"what": what, "reason": reason, "tensors": len(keys), "keys": keys}
