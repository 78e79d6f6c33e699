"""What a network looks at: attention maps, and figures of them."""

from synco_hub.visualization.attention_maps import (
    ATTENTION_MASS,
    AttentionMaps,
    attention_maps,
    class_attention,
    mass_mask,
    patch_self_attention,
)
from synco_hub.visualization.last_attention import LastAttention, last_attention

__all__ = [
    "ATTENTION_MASS",
    "AttentionMaps",
    "LastAttention",
    "attention_maps",
    "class_attention",
    "last_attention",
    "mass_mask",
    "patch_self_attention",
]
