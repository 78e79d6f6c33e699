"""How many attention heads a ViT has: no shape tells, and a wrong number loads silently and ruins the features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from synco_hub.errors import escape
from synco_hub.hub.conversion.layouts import Layout
from synco_hub.models.backbones_synco import specification_of


@dataclass(frozen=True)
class HeadsDecision:
    """How many attention heads, and why: the number changes no weight's shape.

    Attributes:
        num_heads: One number, or one a stage.
        reason: Why.
        recorded: What the file's own configuration says, which may be ignored by the code that wrote it.
    """

    num_heads: int | list[int]
    reason: str
    recorded: Any = None


def vit_heads(
    dim: int, name: str, layout: Layout, given: int | None, backbone: str | None, recorded: Any
) -> HeadsDecision:
    """Decide how many heads a ViT has.

    Args:
        dim: Width of its tokens.
        name: Name of the layout.
        layout: What it says where shapes say nothing.
        given: What the user said, if anything.
        backbone: Short name of the network, where the shapes are exactly its own.
        recorded: What the file's configuration says, which is reported and not believed.

    Raises:
        ValueError: If nothing tells it.
    """
    if given is not None:
        return HeadsDecision(given, "as given by --num-heads", recorded)
    if name == "timm" and backbone is not None:
        heads: Any = specification_of(backbone).num_heads
        return HeadsDecision(heads, f"as {backbone} has it", recorded)
    if dim in layout.vit_heads:
        return HeadsDecision(layout.vit_heads[dim], f"as the code of {layout.source} builds width {dim}", recorded)
    width = layout.vit_head_width or 64
    if dim % width:
        raise ValueError(
            f"The number of attention heads of a ViT of width {dim} is not known for the layout {name!r} and changes "
            "no weight's shape: give --num-heads."
        )
    return HeadsDecision(dim // width, f"{width} channels a head, as the code of {layout.source} builds it", recorded)


def recorded_heads(config: dict[str, Any]) -> Any:
    """What the file's configuration says about heads; the synco-v2 authors' code does not read it."""
    waiting: list[Any] = [config]
    seen: set[int] = set()  # a pickle can hold itself
    while waiting:
        values = waiting.pop()
        if id(values) in seen:
            continue
        seen.add(id(values))
        if "NUM_HEADS" in values:
            recorded = values["NUM_HEADS"]
            numbers = recorded if isinstance(recorded, (list, tuple)) else [recorded]
            return recorded if all(type(number) is int for number in numbers) else escape(recorded)
        waiting.extend(value for value in values.values() if isinstance(value, dict))
    return None
