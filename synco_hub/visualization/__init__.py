"""What a network looks at: attention maps, and figures of them."""

from synco_hub.visualization.attention_maps import (
    ATTENTION_MASS,
    AttentionMaps,
    attention_maps,
    class_attention,
    mass_mask,
    patch_self_attention,
)
from synco_hub.visualization.figure import FigureStyle, attention_figure, save_figure
from synco_hub.visualization.last_attention import LastAttention, last_attention
from synco_hub.visualization.overlay import as_rgb, denormalised, overlay
from synco_hub.visualization.prepared_image import PreparedImage, prepared_image

__all__ = [
    "ATTENTION_MASS",
    "AttentionMaps",
    "FigureStyle",
    "LastAttention",
    "PreparedImage",
    "as_rgb",
    "attention_figure",
    "attention_maps",
    "class_attention",
    "denormalised",
    "last_attention",
    "mass_mask",
    "overlay",
    "patch_self_attention",
    "prepared_image",
    "save_figure",
]
