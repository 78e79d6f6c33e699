"""What the last block of a transformer computes under fused kernels: its attention weights, and its keys.

Fused attention never forms the matrix of weights, and asking for it makes other implementations run every block the
slow way. Here the forward pass stays as it is; the query and key of the last self-attention are noted as they enter
the fused kernel, after any query/key norm or rotation, and only that one matrix is formed. The recipe knows no layer
names, so it serves any transformer that attends over all its tokens: SynCoModel, timm, and transformers' ViT, DeiT,
DINO, DINOv2. The keys, on the grid of the patches, are what LOST and TokenCut look at.
"""

from __future__ import annotations

import inspect
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from synco_hub.errors import DoesNotApplyError
from synco_hub.feature_pooling import (
    find_expected_image_size,
    find_feature_network,
    find_image_config,
    forward_network,
    patch_embedding,
)
from synco_hub.features import eval_mode

# What any network with a feature map can show.
TOKENS_INSTEAD = "look at its tokens (--kind tokens)"
_SOFTMAX = (F.softmax, torch.softmax, torch.Tensor.softmax)


@dataclass(frozen=True)
class LastAttention:
    """Attention weights of the last block and the geometry of their tokens.

    Attributes:
        weights: Each row (query) sums to 1, float32. Shape: (batch, heads, tokens, tokens).
        grid: Rows and columns of patches; they are the last tokens, row by row.
        num_prefix_tokens: Tokens before the patches: [CLS] first, then distillation or register tokens if any.
    """

    weights: Tensor
    grid: tuple[int, int]
    num_prefix_tokens: int


def last_attention(model: nn.Module, pixel_values: Tensor) -> LastAttention:
    """Run the model once and return the attention of its last block.

    Args:
        model: A vision transformer with global attention and a [CLS] token, with or without a head, whatever its
            attention implementation (``sdpa`` or ``eager``). Its training flags are left as they are.
        pixel_values: Preprocessed images, rectangles and sizes other than the model's own included where it can
            interpolate its positions. Shape: (batch, channels, height, width).

    Returns:
        The attention, on the model's device.

    Raises:
        ValueError: If the model attends in windows (Swin), has no [CLS] token, cannot take this image size, or uses
            an attention kernel that shows neither q and k nor the weights.
    """
    network = find_feature_network(model)
    if pixel_values.ndim != 4:
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}, (batch, channels, height, width) is needed: "
            "pass images through the image processor"
        )
    if attends_in_windows(network):
        raise ValueError(
            f"{type(network).__name__} is a Swin, which attends within windows and has no [CLS] token, so there is no "
            "map of the whole image to read off: look at Grad-CAM of its final feature map, which is not this function"
        )
    grid = find_patch_grid(network, pixel_values)
    with eval_mode(network), torch.no_grad(), RecordedSelfAttention(keep=1) as recorded:
        forward_any_size(network, pixel_values)
    weights = recorded.blocks[-1]() if recorded.blocks else None
    if weights is None or len(weights) != len(pixel_values):
        raise ValueError(
            f"no attention over all tokens was seen in {type(network).__name__}: load a vision transformer with "
            f"attn_implementation='sdpa' or 'eager'; of any other network {TOKENS_INSTEAD}"
        )
    prefix = weights.shape[-1] - math.prod(grid)
    if prefix < 1:
        raise ValueError(
            f"{type(network).__name__} attends over {weights.shape[-1]} tokens, which leaves no [CLS] token beside "
            f"the {grid[0]}x{grid[1]} patches: give a vision transformer with a [CLS] token, or {TOKENS_INSTEAD}"
        )
    return LastAttention(weights, grid, prefix)


def last_keys(model: nn.Module, pixel_values: Tensor) -> Tensor:
    """Run the model once and return the keys of its last block, heads side by side.

    Args:
        model: A vision transformer with global attention that runs fused (``sdpa``), with or without a head.
        pixel_values: Preprocessed images of whole patches. Shape: (batch, channels, height, width).

    Returns:
        float32, prefix tokens left out. Shape: (batch, rows, columns, dim).
    """
    network = find_feature_network(model)
    if attends_in_windows(network):
        raise DoesNotApplyError(
            f"{type(network).__name__} is a Swin, whose last keys belong to windows: LOST and TokenCut need the keys "
            "of a vision transformer with global attention"
        )
    grid = find_patch_grid(network, pixel_values)
    with eval_mode(network), torch.no_grad(), RecordedSelfAttention(keep=1) as recorded:
        forward_any_size(network, pixel_values)
    if recorded.fused_keys is None or len(recorded.fused_keys) != len(pixel_values):
        raise ValueError(
            f"no fused attention over all tokens was seen in {type(network).__name__}: load the model with "
            "attn_implementation='sdpa'"
        )
    keys = recorded.fused_keys.float().transpose(1, 2).flatten(2)  # (batch, tokens, dim)
    patches = math.prod(grid)
    if keys.shape[1] < patches:
        raise ValueError(
            f"{type(network).__name__} attends over {keys.shape[1]} tokens, fewer than its {grid[0]}x{grid[1]} "
            "patches: give a model that keeps all its patches"
        )
    return keys[:, -patches:].unflatten(1, grid)


def attends_in_windows(network: nn.Module) -> bool:
    """True for a Swin of whatever library.

    Args:
        network: Any module.
    """
    names = (type(module).__name__.lower() for module in network.modules())
    return any("swin" in name or "windowattention" in name for name in names)


class RecordedSelfAttention(TorchFunctionMode):
    """Notes the self-attention of the code that runs inside; of this thread only, no module is touched.

    Attributes:
        blocks: In the order of the blocks, functions that form the weights. Shape of each: (batch, heads, tokens,
            tokens); a Swin's batch is batch * windows.
        fused_keys: Keys of the last block that attends by the fused kernel. Shape: (batch, heads, tokens, head_dim).
    """

    def __init__(self, keep: int | None = None) -> None:
        super().__init__()
        self.blocks: deque[Callable[[], Tensor]] = deque(maxlen=keep)
        self.fused_keys: Tensor | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            call = inspect.signature(_fused).bind(*args, **kwargs)
            if _is_self_attention(call.arguments["query"].shape[:-1] + call.arguments["key"].shape[-2:-1]):
                self.blocks.append(lambda: _fused(*call.args, **call.kwargs))
                self.fused_keys = call.arguments["key"]
        elif func in _SOFTMAX and _is_self_attention(result.shape):
            self.blocks.append(result.float)
        return result


def _is_self_attention(shape: tuple[int, ...]) -> bool:
    """True for (batch, heads, tokens, tokens); attention pooling has fewer queries than keys."""
    return len(shape) == 4 and shape[-2] == shape[-1]


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What ``scaled_dot_product_attention`` multiplies the values by; takes its arguments, in float32."""
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.float() @ key.float().transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(dim=-1)


def forward_any_size(network: Any, pixel_values: Tensor) -> Any:
    """Run the backbone, interpolating positions where the image has another size than the model.

    Args:
        network: What :func:`synco_hub.feature_pooling.find_feature_network` gave.
        pixel_values: Preprocessed images. Shape: (batch, channels, height, width).
    """
    pixel_values = pixel_values.to(next(network.parameters()).device)
    size = tuple(pixel_values.shape[-2:])
    own_size = find_expected_image_size(network)
    if own_size is None or size == own_size:
        return forward_network(network, pixel_values)
    called = getattr(network, "get_image_features", network.forward)
    if "interpolate_pos_encoding" in inspect.signature(called).parameters:
        return forward_network(network, pixel_values, interpolate_pos_encoding=True)
    patches: Any = getattr(network, "patch_embed", None)
    if getattr(patches, "strict_img_size", False) and not getattr(network, "dynamic_img_size", False):
        raise ValueError(
            f"the image is {size[0]}x{size[1]}, the timm model was built for {own_size[0]}x{own_size[1]}: resize it "
            "(--detail 1), or build the model with dynamic_img_size=True"
        )
    if getattr(patches, "dynamic_img_pad", None) is False:
        sides = patches.patch_size
        if size[0] % sides[0] or size[1] % sides[1]:
            raise ValueError(
                f"the image is {size[0]}x{size[1]}, which is not cut into whole patches of {sides[0]}x{sides[1]}: "
                "resize it to a multiple"
            )
    return forward_network(network, pixel_values)


def find_patch_grid(network: nn.Module, pixel_values: Tensor) -> tuple[int, int]:
    """Rows and columns of patches that a vision transformer cuts an image into.

    Args:
        network: The backbone.
        pixel_values: Shape: (batch, channels, height, width).
    """
    size: Any = getattr(patch_embedding(network), "patch_size", None)
    if size is None:
        size = getattr(find_image_config(network), "patch_size", None)
    if size is None:
        raise ValueError(
            f"{type(network).__name__} names no patch size: give a vision transformer that cuts patches, or "
            f"{TOKENS_INSTEAD}"
        )
    height, width = (size, size) if isinstance(size, int) else size
    grid = pixel_values.shape[-2] // height, pixel_values.shape[-1] // width
    if 0 in grid:
        raise ValueError(
            f"the image is {pixel_values.shape[-2]}x{pixel_values.shape[-1]}, smaller than one patch of "
            f"{height}x{width}: enlarge it"
        )
    return grid
