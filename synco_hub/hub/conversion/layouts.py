"""The layouts of the checkpoints that others published: which key is which part, and what no key tells.

Source: read in the public code of each project; see `Layout.source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synco_hub.hub.card.facts import CardFacts
from synco_hub.hub.conversion.source import CheckpointSource, is_tensor, load_tensor, shape_of
from synco_hub.models.backbones_synco import suggest
from synco_hub.models.position_embedding_synco import sincos_position_embedding

# The names of the parts of a checkpoint; `online` and `target` are backbones.
BACKBONES_OF_A_PAIR = ("online", "target")
PROJECTION_HEADS = ("projector", "target_projector", "predictor")

_MICROSOFT_EPS = 1e-5
_AUTHORS_SWIN_EPS = {
    "block_attention": 1e-6,
    "block_mlp": 1e-5,
    "patch_embedding": 1e-6,
    "patch_merging": 1e-6,
    "final": 1e-6,
}


@dataclass(frozen=True)
class Layout:
    """One project's way to lay out a checkpoint.

    Attributes:
        container: Key of the dictionary that holds the weights; None where they are at the top.
        parts: Beginning of a key to the part it belongs to; `module.` (DistributedDataParallel) is taken off before.
        branch: Which backbone the project itself evaluates.
        vit_head_width: Channels of an attention head of its ViTs, None: `vit_heads`.
        vit_heads: Heads of its ViTs by width of the tokens, where that is the rule.
        swin_eps: Epsilon of its Swin's LayerNorms.
        licence: Identifier of the release's licence, `other` where it is unclear, None where nothing tells.
        licence_note: The situation in words.
        source: Whose code it is.
        vit_eps: Epsilon of its ViT's LayerNorms.
        licence_name: Name of the licence where its identifier is `other`.
    """

    container: str | None
    parts: Mapping[str, str]
    branch: str
    vit_head_width: int | None
    vit_heads: Mapping[int, int]
    swin_eps: float | dict[str, float]
    licence: str | None
    licence_note: str
    source: str
    vit_eps: float = 1e-6
    licence_name: str | None = None


_MOBY_PARTS = {
    "encoder.": "online",
    "encoder_k.": "target",
    "projector.": "projector",
    "projector_k.": "target_projector",
    "predictor.": "predictor",
    "queue": "queue",
}
_UNKNOWN_LICENCE = "Nothing in the file says under which licence its author released it: ask there."
_MOCO_HEADS = {384: 12, 768: 12, 1024: 16}

LAYOUTS: dict[str, Layout] = {
    "synco-v2": Layout(
        "model",
        _MOBY_PARTS,
        "online",
        None,
        _MOCO_HEADS,
        _AUTHORS_SWIN_EPS,
        "other",
        "The authors' release contradicts itself: its LICENSE file says MIT, its README CC-BY-NC-4.0.",
        "giakoumoglou/synco-v2",
        licence_name="mit-in-licence-file-cc-by-nc-4.0-in-readme",
    ),
    "moby": Layout(
        "model",
        _MOBY_PARTS,
        "online",
        64,
        {},
        _MICROSOFT_EPS,
        "mit",
        "The licence of the repository that released the weights.",
        "SwinTransformer/Transformer-SSL",
    ),
    "moco-v3": Layout(
        "state_dict",
        {"base_encoder.": "online", "momentum_encoder.": "target", "predictor.": "predictor"},
        "online",
        None,
        _MOCO_HEADS,
        _MICROSOFT_EPS,
        "cc-by-nc-4.0",
        "The licence of the repository that released the weights: no commercial use.",
        "facebookresearch/moco-v3",
    ),
    "dino": Layout(
        None,
        {"backbone.": "online", "head.": "projector"},
        "target",
        64,
        {},
        _MICROSOFT_EPS,
        "apache-2.0",
        "The licence of the repository that released the weights.",
        "facebookresearch/dino",
    ),
    "timm": Layout(
        None,
        {},
        "online",
        64,
        {},
        _MICROSOFT_EPS,
        None,
        _UNKNOWN_LICENCE,
        "timm",
    ),
    "transformers": Layout(
        None,
        {},
        "online",
        None,
        {},
        _MICROSOFT_EPS,
        None,
        _UNKNOWN_LICENCE,
        "transformers",
    ),
}
CHOICES = ("auto", "synco-v2", "moby", "moco-v3", "dino", "timm")


def licence_facts(layout: Layout) -> CardFacts:
    """What the card of a converted checkpoint says about its licence."""
    known = layout.source.count("/") == 1
    return CardFacts(
        licence=layout.licence,
        licence_name=layout.licence_name,
        licence_link=f"https://github.com/{layout.source}" if layout.licence_name and known else None,
        licence_note=f"{layout.licence_note} Converted, not re-hosted, by this project.",
    )


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
    """Tell a checkpoint's layout from its keys.

    Args:
        source: The opened checkpoint.
        wanted: `auto`, or the layout that the user says it has.

    Raises:
        ValueError: If nothing tells it, or what is wanted is unknown.
    """
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
    container = next((key for key in ("model", "state_dict") if isinstance(content.get(key), Mapping)), None)
    keys = [key.removeprefix("module.") for key in (content[container] if container else content)]
    if any(key.startswith(("base_encoder.", "momentum_encoder.")) for key in keys):
        return Recognised("moco-v3", "keys begin with base_encoder. or momentum_encoder.")
    if any(key.startswith("backbone.") for key in keys):
        return Recognised("dino", "keys begin with backbone.")
    if told := _told_by_config(content.get("config")):
        return told
    return _told_by_position_embedding(source, container, keys)


def _told_by_config(config: Any) -> Recognised | None:
    model = config.get("MODEL") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping):
        return None
    # Both projects share their code's ancestor; only the later one names its encoder so, and has other methods.
    field = "ENCODER" if "ENCODER" in model else "TYPE"
    if field == "ENCODER" or model.get(field) in ("synco", "byol"):
        return Recognised("synco-v2", f"its config says MODEL.{field} = {model[field]!r}")
    return Recognised("moby", "its config has MODEL and no MODEL.ENCODER, as in Microsoft's code")


def _told_by_position_embedding(source: CheckpointSource, container: str | None, keys: list[str]) -> Recognised:
    state = {key.removeprefix("module."): value for key, value in _state(source, container).items()}
    pair = any(key.startswith("encoder.") for key in keys)
    embedding = next((state[key] for key in ("encoder.pos_embed", "pos_embed") if key in state), None)
    if embedding is not None and not has_sincos_position_embedding(load_tensor(embedding)):
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
        f"{sorted(map(str, keys))[:5]}: give --layout if it is one of them."
    )


def has_sincos_position_embedding(embedding: Any) -> bool:
    """Whether a position embedding (1, 1 + grid * grid, dim) is the fixed one, [CLS] zero."""
    if embedding.ndim != 3 or embedding.shape[-1] % 4 or not embedding.numel():
        return False
    grid = round((embedding.shape[1] - 1) ** 0.5)
    if grid * grid != embedding.shape[1] - 1 or embedding[0, 0].abs().max() > 0:
        return False
    fixed = sincos_position_embedding(grid, grid, embedding.shape[-1])
    return bool((embedding[0, 1:].float() - fixed).abs().max() < 1e-3)


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
    state = _state(source, container)
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
            parts, left = _sorted_keys(_state(source, key), layout.parts)
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


def _state(source: CheckpointSource, container: str | None) -> Mapping[str, Any]:
    """The dictionary of weights; a file that is nothing else is its own container."""
    state = source.content if container is None else source.content.get(container)
    if state is None and any(is_tensor(value) for value in source.content.values()):
        state = source.content
    if not isinstance(state, Mapping) or not any(is_tensor(value) for value in state.values()):
        raise ValueError(
            f"{source.name} has no dictionary of tensors under {container!r} (it has {sorted(source.content)[:8]}): "
            "give another --layout."
        )
    wrong = [key for key, value in state.items() if not isinstance(key, str) or not is_tensor(value)]
    if wrong:
        raise ValueError(f"{source.name}: among the weights {wrong[:5]} are no tensors: the file is refused.")
    return state


def _beside(content: Mapping[str, Any], used: set[str | None]) -> dict[str, str]:
    reasons = {"optimizer": "state of the optimizer", "lr_scheduler": "state of the schedule"}
    return {str(key): reasons.get(str(key), "no weights of the networks") for key in content if key not in used}


def embedding_width(tensors: Mapping[str, Any]) -> int | None:
    """Width of a ViT's tokens, None if it is none."""
    token = tensors.get("cls_token")
    return None if token is None else shape_of(token)[-1]
