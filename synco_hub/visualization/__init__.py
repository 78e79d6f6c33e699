"""What a network looks at: attention, gradient and token maps, and figures of them."""

from synco_hub.visualization.attention_maps import (
    ATTENTION_MASS,
    AttentionMaps,
    attention_maps,
    class_attention,
    mass_mask,
    patch_self_attention,
    upsample,
)
from synco_hub.visualization.attention_rollout import attention_rollout, rollout
from synco_hub.visualization.class_score import ClassFeatures, Score, class_score
from synco_hub.visualization.figure import FigureStyle, attention_figure, save_figure
from synco_hub.visualization.foreground import SIMILARITY_THRESHOLD, foreground_mask
from synco_hub.visualization.gradient_maps import GradientMaps, grad_cam, gradient_maps
from synco_hub.visualization.grid_figure import GridColumn, grid_figure
from synco_hub.visualization.last_attention import LastAttention, attends_in_windows, last_attention
from synco_hub.visualization.map_kinds import MAP_KINDS, MapKind, drawn_map, paper_kinds
from synco_hub.visualization.overlay import as_rgb, blended, denormalised, overlay, relative_to_range
from synco_hub.visualization.prepared_image import PreparedImage, prepared_image
from synco_hub.visualization.token_map import patch_similarity, principal_colours, token_map
from synco_hub.visualization.window_attention import unfold_windows, window_attention

__all__ = [
    "ATTENTION_MASS",
    "MAP_KINDS",
    "SIMILARITY_THRESHOLD",
    "AttentionMaps",
    "ClassFeatures",
    "FigureStyle",
    "GradientMaps",
    "GridColumn",
    "LastAttention",
    "MapKind",
    "PreparedImage",
    "Score",
    "as_rgb",
    "attends_in_windows",
    "attention_figure",
    "attention_maps",
    "attention_rollout",
    "blended",
    "class_attention",
    "class_score",
    "denormalised",
    "drawn_map",
    "foreground_mask",
    "grad_cam",
    "gradient_maps",
    "grid_figure",
    "last_attention",
    "mass_mask",
    "overlay",
    "paper_kinds",
    "patch_self_attention",
    "patch_similarity",
    "prepared_image",
    "principal_colours",
    "relative_to_range",
    "rollout",
    "save_figure",
    "token_map",
    "unfold_windows",
    "upsample",
    "window_attention",
]
