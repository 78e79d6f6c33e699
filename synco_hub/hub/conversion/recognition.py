"""Which project's layout a checkpoint has, and which of its tensors belongs to which network, head or queue.

The layout is told by the keys, the configuration and the position embedding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from synco_hub.errors import escape, join_names, suggest
from synco_hub.hub.conversion.layouts import CHOICES, CONTAINERS, LAYOUTS, Layout
from synco_hub.hub.conversion.source import CheckpointSource, choose_state, find_states, read_tensors
from synco_hub.hub.conversion.tensor_names import has_sincos_position_embedding, map_to_timm_names

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


def recognise(source: CheckpointSource, wanted: str = "auto", branch: str | None = None) -> Recognised:
    """Tell a checkpoint's layout from the keys of the weights that are taken."""
    if wanted not in CHOICES:
        raise ValueError(f"layout={wanted!r} is unknown: use one of {', '.join(CHOICES)}.{suggest(wanted, CHOICES)}")
    if source.kind == "transformers":
        return Recognised("transformers", "a directory with a stock model's config.json")
    if wanted != "auto":
        return Recognised(wanted, "as given by --layout")
    if source.kind == "timm" or source.config:
        return Recognised("timm", "the network of a timm name, or a file of timm keys that says how it was built")
    content = source.content
    if _holds_student_and_teacher(content):
        return Recognised("dino", "it holds student and teacher")
    state = choose_state(source, CONTAINERS, branch)[1].tensors
    if told := _told_by_beginnings(list(state)):
        return told
    if told := _told_by_config(content.get("config")):
        return told
    return _told_by_position_embedding(source, state)


def _holds_student_and_teacher(content: Mapping[str, Any]) -> bool:
    """Either is enough, but a teacher beside a model is an average of it."""
    return "student" in content or ("teacher" in content and not set(CONTAINERS) & set(content))


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


def _told_by_position_embedding(source: CheckpointSource, state: Mapping[str, Any]) -> Recognised:
    keys = list(state)
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
        taken: Of what is at the top of the file, how many tensors are in parts; empty text for the file itself.
        copies: Names of other copies of the network in the file, such as an average of its weights.
    """

    tensors: dict[str, dict[str, Any]]
    dropped: dict[str, str]
    leftover: list[str]
    taken: Mapping[str, int]
    copies: tuple[str, ...] = ()


def split_parts(source: CheckpointSource, recognised: Recognised, branch: str | None = None) -> Parts:
    """Sort every tensor of a checkpoint into its part; of several copies of the network, the one that is named."""
    layout = recognised.layout
    if recognised.name == "dino" and _holds_student_and_teacher(source.content):
        return _split_dino(source, layout)
    name, chosen = choose_state(source, [*filter(None, [layout.container]), *CONTAINERS], branch)
    parts, leftover = _split_state(chosen.tensors, layout)
    copies = tuple(
        other
        for other, state in find_states(source).items()
        if other != name and not state.others and _is_copy(_split_state(state.tensors, layout)[0], parts)
    )
    dropped = {} if chosen.place == "" else _beside(source.content, {chosen.place: name}, copies)
    return Parts(parts, dropped, leftover, {chosen.place: len(chosen.tensors)}, copies)


def _split_state(state: Mapping[str, Any], layout: Layout) -> tuple[dict[str, dict[str, Any]], list[str]]:
    parts, leftover = _sort_keys(state, layout.parts)
    if not {"online", "target"} & set(parts):
        # A plain backbone, as linear probes and timm write it: every key is the online network's.
        return {"online": dict(state)}, []
    return parts, leftover


def _is_copy(parts: Mapping[str, Mapping[str, Any]], of: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a dictionary of weights holds every tensor of a backbone, in its shapes."""
    ours, theirs = (map_to_timm_names(each.get("online", {})).tensors for each in (of, parts))
    return bool(ours) and all(key in theirs and theirs[key].shape == tensor.shape for key, tensor in ours.items())


def _split_dino(source: CheckpointSource, layout: Layout) -> Parts:
    """The student is the online network, the teacher the target."""
    found: dict[str, dict[str, Any]] = {}
    leftover: list[str] = []
    taken: dict[str, int] = {}
    states = find_states(source)
    for key, backbone, head in (("student", "online", "projector"), ("teacher", "target", "target_projector")):
        if key in states:
            parts, left = _sort_keys(states[key].tensors, layout.parts)
            found |= {{"online": backbone, "projector": head}[name]: tensors for name, tensors in parts.items()}
            leftover += [f"{key}.{name}" for name in left]
            taken[key] = len(states[key].tensors)
    return Parts(found, _beside(source.content, {key: key for key in taken}, ()), leftover, taken)


def _sort_keys(state: Mapping[str, Any], beginnings: Mapping[str, str]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    parts: dict[str, dict[str, Any]] = {}
    leftover = []
    for key, value in state.items():
        beginning = next((text for text in beginnings if key.startswith(text)), None)
        if beginning is None:
            leftover.append(key)
            continue
        # `queue1` keeps its name: there the beginning is part of it.
        name = key.removeprefix(beginning) if beginning.endswith(".") else key
        parts.setdefault(beginnings[beginning], {})[name] = value
    return parts, leftover


def _beside(content: Mapping[str, Any], used: Mapping[str, str], copies: Sequence[str]) -> dict[str, str]:
    """Reason for everything at the top of a file that is not taken, or not wholly (`used`: key to what of it is)."""
    reasons = {"optimizer": "state of the optimizer", "lr_scheduler": "state of the schedule"}
    dropped = {}
    for key in map(str, content):
        copy = next((name for name in copies if name.split(".")[0] == key), None)
        if copy is not None:
            dropped[key] = f"another copy of the network: --branch {copy} takes it"
        elif used.get(key) != key:
            holds = any(True for _ in read_tensors(content[key]))
            other = "tensors of nothing that is converted" if holds else "no weights of the networks"
            dropped[key] = reasons.get(key, other)
    return dropped
