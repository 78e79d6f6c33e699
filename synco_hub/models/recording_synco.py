"""Every block's attention and hidden state of one forward, whatever the attention implementation.

This file travels to the Hub with every checkpoint, so it imports nothing of ours but its sibling.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .backbones_synco import is_vision_transformer


@dataclass
class Recorded:
    """What one forward left behind, in the order of the blocks.

    Attributes:
        attentions: ViT: (batch, heads, tokens, tokens) a block; Swin: (batch * windows, heads, area, area) a block.
        hidden_states: The embedding and every block's output; Swin: every stage's, (batch, height, width, dim).
    """

    attentions: list[Tensor] = field(default_factory=list)
    hidden_states: list[Tensor] = field(default_factory=list)


def find_attention_modules(backbone: nn.Module) -> list[Any]:
    """Every block's attention, in order.

    Fused attention never forms its weights; unfused, every timm attention passes them through its `attn_drop`.
    Swin-V2's is always unfused and has no switch.

    Raises:
        ValueError: If this timm network hides its attention.
    """
    modules = [module for module in backbone.modules() if hasattr(module, "attn_drop") and hasattr(module, "qkv")]
    if not modules:
        raise ValueError(
            f"The blocks of this {type(backbone).__name__} do not show their attention: leave output_attentions out."
        )
    return modules


def use_fused_attention(backbone: Any, fused: bool) -> None:
    """Choose between fused (sdpa) and unfused (eager) attention, where there is a choice."""
    for module in backbone.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused


@contextmanager
def record_attention(backbone: Any, attentions: bool, hidden_states: bool) -> Iterator[Recorded]:
    """Within this context, every forward of the backbone is recorded.

    Args:
        backbone: A timm ViT or Swin.
        attentions: Whether to record attentions; attention runs unfused meanwhile.
        hidden_states: Whether to record hidden states.

    Raises:
        ValueError: If attentions are wanted of a network that hides them.
    """
    recorded = Recorded()
    with ExitStack() as restored:
        for module in find_attention_modules(backbone) if attentions else []:
            if getattr(module, "fused_attn", False):
                module.fused_attn = False
                restored.callback(setattr, module, "fused_attn", True)
            handle = module.attn_drop.register_forward_pre_hook(_record_input(recorded.attentions))
            restored.callback(handle.remove)
        if hidden_states:
            blocks = backbone.blocks if is_vision_transformer(backbone) else backbone.layers
            handle = blocks[0].register_forward_pre_hook(_record_input(recorded.hidden_states))
            restored.callback(handle.remove)
            for block in blocks:
                restored.callback(block.register_forward_hook(_record_output(recorded.hidden_states)).remove)
        yield recorded


def _record_input(store: list[Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        store.append(inputs[0])

    return hook


def _record_output(store: list[Tensor]) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        store.append(output)

    return hook
