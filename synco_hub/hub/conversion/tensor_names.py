"""A foreign backbone's tensors under timm's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synco_hub.models.position_embedding_synco import find_grid_side, is_sincos_position_embedding

_BUFFERS = ("relative_position_index", "attn_mask", "relative_coords_table")
_HEAD_KEYS = {
    "head.weight": "weight",
    "head.bias": "bias",
    "head.fc.weight": "weight",
    "head.fc.bias": "bias",
}


@dataclass(frozen=True)
class BackboneTensors:
    """A backbone's tensors under timm's names.

    Attributes:
        tensors: timm key to tensor.
        head: `weight` (num_classes, dim) and `bias` (num_classes,) of a linear classifier, or empty.
        dropped: Key to why it is not carried over.
        facts: What was done to the names, in words.
        grid: Patches along a side of the image, where stored masks tell it.
    """

    tensors: dict[str, Any]
    head: dict[str, Any]
    dropped: dict[str, str]
    facts: list[str]
    grid: int | None = None


def map_to_timm_names(found: Mapping[str, Any]) -> BackboneTensors:
    """Bring a backbone's keys into timm's names."""
    dropped = {key: "computed from the window" for key in found if key.rsplit(".", 1)[-1] in _BUFFERS}
    rest = {key: value for key, value in found.items() if key not in dropped}
    head = {name: rest.pop(key) for key, name in _HEAD_KEYS.items() if key in rest and rest[key].ndim < 3}
    projection = [key for key in rest if re.match(r"head\.\d", key)]
    for key in projection:
        dropped[key] = "projection head of the pretraining"
        del rest[key]
    facts = []
    if any(key.startswith("layers.0.downsample.") for key in rest):
        # Microsoft merges patches at the end of a stage, timm at the start of the next.
        rest = {_later_stage(key): value for key, value in rest.items()}
        facts.append("Microsoft's patch merging at the end of a stage became timm's at the start of the next")
    return BackboneTensors(rest, head, dropped, facts, _stored_grid(found))


def _later_stage(key: str) -> str:
    return re.sub(r"^layers\.(\d+)\.downsample\.", lambda match: f"layers.{int(match[1]) + 1}.downsample.", key)


def _stored_grid(found: Mapping[str, Any]) -> int | None:
    """Patches a side of the first stage, from its stored mask of shape (windows, area, area)."""
    mask = next((tuple(found[k].shape) for k in found if re.fullmatch(r"layers\.0\.blocks\.\d+\.attn_mask", k)), ())
    return None if len(mask) != 3 else round(mask[0] ** 0.5) * round(mask[1] ** 0.5)


def has_sincos_position_embedding(embedding: Any) -> bool:
    """Whether a position embedding (1, 1 + grid * grid, dim) is the fixed one, [CLS] zero, or made from it."""
    if is_sincos_position_embedding(embedding):
        return True
    if embedding.ndim != 3 or embedding.shape[-1] % 4 or not embedding.numel():
        return False
    side = find_grid_side(embedding.shape[1], 1)
    if side is None or side < 2 or embedding[0, 0].float().abs().max() > 0:
        return False
    return _is_interpolated_table(embedding[0, 1:].float().unflatten(0, (side, side)))


def _is_interpolated_table(table: Any) -> bool:
    """Whether a table (side, side, dim) is the fixed one, interpolated from another grid, perhaps several times.

    What no training leaves so: one half tells the row alone, the other the column, by the same numbers; each is a
    sine and a cosine, which interpolation spoils only where the frequency is high.
    """
    rows, columns = table.chunk(2, dim=-1)
    profile = rows[:, 0]
    if max(float((rows - profile[:, None]).abs().max()), float((columns - profile[None]).abs().max())) > 1e-3:
        return False
    sine, cosine = profile.chunk(2, dim=-1)
    low = slice(sine.shape[-1] // 2, None)
    length = sine[:, low] ** 2 + cosine[:, low] ** 2
    return float(profile.std(0)[0]) > 0 and float((length - 1).abs().max()) < 0.02
