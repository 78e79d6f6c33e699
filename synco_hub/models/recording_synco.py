"""Every block's attention and hidden state of one forward, whatever the attention implementation.

Threads share a network, so what one call wishes is nowhere on it: hidden states are taken in a loop over the blocks of
that call, and the wish for attentions belongs to the thread that calls. A server's other forwards, plain ones too, are
neither heard nor changed.

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its sibling.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from .backbones_synco import is_vision_transformer

# A CUDA grid's second dimension. torch 2.11's backward of scaled_dot_product_attention fails beyond it.
MOST_WINDOWS = 65_535


class _OfThisThread(threading.local):
    """Where the forward that this thread is in leaves its attentions; None while nobody wants them."""

    attentions: list[Tensor] | None = None


_OF_THIS_THREAD = _OfThisThread()


class FusedUnlessRecorded(int):
    """A timm attention's `fused_attn` that is false to a thread while it records attentions, else 0 or 1.

    Fused attention never forms its weights. A switch on the module would switch it for every thread.
    """

    def __init__(self, fused: bool) -> None:
        # torch 2.11's compiler can follow an attribute, but neither compare nor convert a subclass of int.
        self.is_on = bool(fused)

    def __bool__(self) -> bool:
        # Compiled code never records, and must not guard what one thread wants.
        return self.is_on and (torch.compiler.is_dynamo_compiling() or _OF_THIS_THREAD.attentions is None)


class RecordedDropout(nn.Dropout):
    """Dropout of attention weights that also leaves them to the thread that records."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop at random while training."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            _note_attention(input)
        return F.dropout(input, self.p, self.training, self.inplace)


def _note_attention(attention: Tensor) -> None:
    if not torch.compiler.is_dynamo_compiling() and _OF_THIS_THREAD.attentions is not None:
        _OF_THIS_THREAD.attentions.append(attention)


def find_attention_modules(backbone: nn.Module) -> list[Any]:
    """Every block's attention, in order.

    Unfused, every timm attention passes its weights through its `attn_drop`. Swin-V2's is always unfused and has no
    switch.

    Raises:
        ValueError: If this timm network hides its attention.
    """
    modules = _attention_modules(backbone)
    if not modules:
        raise ValueError(
            f"The blocks of this {type(backbone).__name__} do not show their attention: leave output_attentions out."
        )
    return modules


def use_fused_attention(backbone: Any, fused: bool) -> None:
    """Choose between fused (sdpa) and unfused (eager) attention, where there is a choice; either can be recorded."""
    for module in backbone.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    for module in _attention_modules(backbone):
        _make_recordable(module)


def forward_features(
    backbone: Any, pixel_values: Tensor, attentions: list[Tensor] | None, hidden_states: list[Tensor] | None
) -> Tensor:
    """The backbone's `forward_features`, which also fills the lists it is given, in the order of the blocks.

    Args:
        backbone: A timm ViT or Swin.
        pixel_values: Normalised images. Shape: (batch, channels, height, width).
        attentions: ViT: (batch, heads, tokens, tokens) a block; Swin: (batch * windows, heads, area, area) a block.
            Attention runs unfused meanwhile.
        hidden_states: The embedding and every block's output; Swin: every stage's, (batch, height, width, dim).

    Returns:
        ViT: (batch, tokens, dim); Swin: (batch, height, width, dim).

    Raises:
        ValueError: If attentions are wanted of a network that hides them.
    """
    parts = _split_by_windows(backbone, pixel_values)
    if len(parts) > 1:
        return _forward_parts(backbone, parts, attentions, hidden_states)
    if attentions is not None:
        return _record_attentions(backbone, pixel_values, attentions, hidden_states)
    # A forward within another's, from a hook, must not be taken for it. Compiled code never records.
    if not torch.compiler.is_dynamo_compiling() and _OF_THIS_THREAD.attentions is not None:
        with _leave_attentions_to(None):
            return _run(backbone, pixel_values, hidden_states)
    return _run(backbone, pixel_values, hidden_states)


def _split_by_windows(backbone: Any, pixel_values: Tensor) -> tuple[Tensor, ...]:
    """Cut a batch into parts whose Swin windows a CUDA kernel's grid can count, where gradients are wanted."""
    # An exported graph is for inference; a split would fix its batch size.
    if is_vision_transformer(backbone) or not torch.is_grad_enabled() or torch.compiler.is_exporting():
        return (pixel_values,)
    patch, window = backbone.patch_embed.patch_size, backbone.layers[0].blocks[0].window_size
    # A list: a compiler cannot follow a generator into `prod`.
    sides = [
        math.ceil(side / own / wide) for side, own, wide in zip(pixel_values.shape[-2:], patch, window, strict=True)
    ]
    return pixel_values.split(max(1, MOST_WINDOWS // math.prod(sides)))


def _forward_parts(
    backbone: Any, parts: tuple[Tensor, ...], attentions: list[Tensor] | None, hidden_states: list[Tensor] | None
) -> Tensor:
    """One part after the other, in their order; what was recorded is joined block by block."""
    features, recorded = [], []
    for part in parts:
        of_part: list[Any] = [None if wanted is None else [] for wanted in (attentions, hidden_states)]
        features.append(forward_features(backbone, part, *of_part))
        recorded.append(of_part)
    for wanted, of_parts in zip((attentions, hidden_states), zip(*recorded, strict=True), strict=True):
        if wanted is not None:
            wanted.extend(torch.cat(block) for block in zip(*of_parts, strict=True))
    return torch.cat(features)


# Compilers take the switch for a constant and read no thread's state.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _record_attentions(
    backbone: Any, pixel_values: Tensor, attentions: list[Tensor], hidden_states: list[Tensor] | None
) -> Tensor:
    modules = find_attention_modules(backbone)
    for module in modules:
        _make_recordable(module)  # its fused_attn may have been set by hand since
    with _leave_attentions_to(attentions):
        features = _run(backbone, pixel_values, hidden_states)
    if len(attentions) != len(modules):
        raise ValueError(
            f"{len(attentions)} of {len(modules)} blocks showed their attention: blocks that are compiled one by one "
            "show none, ask a model that is not compiled, or compiled as a whole."
        )
    return features


def _attention_modules(backbone: nn.Module) -> list[Any]:
    return [module for module in backbone.modules() if hasattr(module, "attn_drop") and hasattr(module, "qkv")]


def _make_recordable(attention: Any) -> None:
    """Give a timm attention the two parts that know about recording; nothing else about it changes."""
    if getattr(attention, "fused_attn", None) is True:
        attention.fused_attn = FusedUnlessRecorded(True)
    dropout = attention.attn_drop
    if type(dropout) is nn.Dropout:
        attention.attn_drop = RecordedDropout(dropout.p, dropout.inplace).train(dropout.training)


@contextmanager
def _leave_attentions_to(store: list[Tensor] | None) -> Iterator[None]:
    outer, _OF_THIS_THREAD.attentions = _OF_THIS_THREAD.attentions, store
    try:
        yield
    finally:
        _OF_THIS_THREAD.attentions = outer


def _run(backbone: Any, pixel_values: Tensor, hidden_states: list[Tensor] | None) -> Tensor:
    """What timm's `forward_features` does; where hidden states are wanted block by block (Swin: stage by stage)."""
    if hidden_states is None:
        features: Tensor = backbone.forward_features(pixel_values)
        return features
    tokens: Tensor = backbone.patch_embed(pixel_values)
    is_vit = is_vision_transformer(backbone)
    if is_vit:
        tokens = backbone.norm_pre(backbone.patch_drop(backbone._pos_embed(tokens)))
    hidden_states.append(tokens)
    for block in backbone.blocks if is_vit else backbone.layers:
        # A Swin's stages see to this by themselves.
        tokens = checkpoint_seq([block], tokens) if is_vit and backbone.grad_checkpointing else block(tokens)
        hidden_states.append(tokens)
    features = backbone.norm(tokens)
    return features
