"""Which project's layout a checkpoint has, and which of its tensors belongs to which network, head or queue.

The layout is told by the keys, the configuration and the position embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synco_hub.errors import escape, join_names, suggest
from synco_hub.hub.conversion.layouts import CHOICES, CONTAINERS, LAYOUTS, Layout
from synco_hub.hub.conversion.source import CheckpointSource, find_weights
from synco_hub.hub.conversion.tensor_names import has_sincos_position_embedding

# The names of the parts of a checkpoint; `online` and `target` are backbones.
BACKBONES_OF_A_PAIR = ("online", "target")


@dataclass(frozen=True)
class Recognised:
    """Which layout, and by what it was told."""

    name: str
    reason: str

    @property
    def layout(self) -> Layout:
        """The row of `LAYOUTS`."""
        return LAYOUTS[self.name]


def recognise(source: CheckpointSource, wanted: str = "auto") -> Recognised:
    """Tell a checkpoint's layout from its keys."""
    if wanted not in CHOICES:
        raise ValueError(f"layout={wanted!r} is unknown: use one of {', '.join(CHOICES)}.{suggest(wanted, CHOICES)}")
    if source.kind == "transformers":
        return Recognised("transformers", "a directory with a stock model's config.json")
    if wanted != "auto":
        return Recognised(wanted, "as given by --layout")
    if source.kind == "timm" or source.config:
        return Recognised("timm", "the network of a timm name, or a file of timm keys that says how it was built")
    content = source.content
    if {"student", "teacher"} & set(content):
        return Recognised("dino", "it holds student and teacher")
    container = _find_container(content)
    keys = [str(key).removeprefix("module.") for key in (content[container] if container else content)]
    if told := _told_by_beginnings(keys):
        return told
    if told := _told_by_config(content.get("config")):
        return told
    return _told_by_position_embedding(source, container, keys)


def _find_container(content: Mapping[str, Any]) -> str | None:
    return next((key for key in CONTAINERS if isinstance(content.get(key), Mapping)), None)


def _told_by_beginnings(keys: list[str]) -> Recognised | None:
    """The layout whose backbones' keys begin as no other's; synco-v2 and moby share theirs."""
    shared = Counter(text for layout in LAYOUTS.values() for text in layout.parts)
    for name, layout in LAYOUTS.items():
        own = [text for text, part in layout.parts.items() if part in BACKBONES_OF_A_PAIR and shared[text] == 1]
        if any(key.startswith(tuple(own)) for key in keys):
            return Recognised(name, f"keys begin with {' or '.join(own)}")
    return None


def _told_by_config(config: Any) -> Recognised | None:
    model = config.get("MODEL") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping):
        return None
    # Both projects share their code's ancestor; only the later one names its encoder so, and has other methods.
    field = "ENCODER" if "ENCODER" in model else "TYPE"
    if field == "ENCODER" or model.get(field) in ("synco", "byol"):
        return Recognised("synco-v2", f"its config says MODEL.{field} = {escape(model[field])!r}")
    return Recognised("moby", "its config has MODEL and no MODEL.ENCODER, as in Microsoft's code")


def _told_by_position_embedding(source: CheckpointSource, container: str | None, keys: list[str]) -> Recognised:
    state = {key.removeprefix("module."): value for key, value in find_weights(source, container).items()}
    pair = any(key.startswith("encoder.") for key in keys)
    embedding = next((state[key] for key in ("encoder.pos_embed", "pos_embed") if key in state), None)
    if embedding is not None and not has_sincos_position_embedding(embedding):
        name = "moby" if pair else "timm"
        return Recognised(name, f"{'encoder and ' if pair else ''}ViT keys with a learned position embedding")
    if pair and embedding is not None:
        return Recognised("synco-v2", "encoder, projector and a fixed sine-cosine position embedding")
    if embedding is not None:
        raise ValueError(
            f"{source.name} holds a plain ViT with a fixed position embedding, as of synco-v2 or moco-v3 (12 heads "
            "at width 384) or timm (6), and no key tells how many: give --layout, and if need be --num-heads."
        )
    if not pair and any(key.startswith(("layers.", "patch_embed.")) for key in keys):
        return Recognised("timm", "plain Swin keys")
    if pair:
        raise ValueError(
            f"{source.name} holds a Swin as synco-v2 and moby write it and no config; the two differ in the epsilon "
            "of their norms: give --layout synco-v2 or --layout moby."
        )
    raise ValueError(
        f"{source.name} has none of the known layouts ({', '.join(CHOICES[1:])}); its first keys are "
        f"{join_names(sorted(keys), 5)}: give --layout if it is one of them."
    )


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
    """Sort every tensor of a checkpoint into its part."""
    layout = recognised.layout
    if recognised.name == "dino" and {"student", "teacher"} & set(source.content):
        return _split_dino(source, layout)
    container = layout.container
    if container is None:
        container = _find_container(source.content)
    state = find_weights(source, container)
    parts, leftover = _sort_keys(state, layout.parts)
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
            parts, left = _sort_keys(find_weights(source, key), layout.parts)
            found |= {{"online": backbone, "projector": head}[name]: tensors for name, tensors in parts.items()}
            leftover += [f"{key}.{name}" for name in left]
    return Parts(found, _beside(source.content, {"student", "teacher"}), leftover)


def _sort_keys(state: Mapping[str, Any], beginnings: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
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
