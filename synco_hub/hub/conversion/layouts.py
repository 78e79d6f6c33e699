"""The layouts of the checkpoints that others published: which key is which part, and what no key tells.

Source: read in the public code of each project; see `Layout.source`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from synco_hub.hub.card.facts import CardFacts

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
# Keys under which some layout has its weights.
CONTAINERS = tuple(dict.fromkeys(layout.container for layout in LAYOUTS.values() if layout.container))
# A directory of `transformers` says what it is.
CHOICES = ("auto", *(name for name in LAYOUTS if name != "transformers"))


def describe_licence(layout: Layout) -> CardFacts:
    """What the card of a converted checkpoint says about its licence."""
    known = layout.source.count("/") == 1
    return CardFacts(
        licence=layout.licence,
        licence_name=layout.licence_name,
        licence_link=f"https://github.com/{layout.source}" if layout.licence_name and known else None,
        licence_note=f"{layout.licence_note} Converted, not re-hosted, by this project.",
    )
