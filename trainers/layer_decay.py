"""Weights in groups whose learning rate falls from block to block, and without decay where no decay belongs.

Source: Bao et al. 2022 (BEiT) and timm's `param_groups_layer_decay`, which knows timm's own networks alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any

from torch import nn

# Not decayed although they are no vectors: tokens, embeddings and Swin's bias tables and scales.
NO_WEIGHT_DECAY = ("*cls_token", "*reg_token", "*pos_embed", "*relative_position_bias_table", "*logit_scale")
# What a group of the backbone says of itself.
BACKBONE = "backbone"
_NUMBERED = re.compile(r"(?:^|\.)(?:blocks|layers?|stages)\.(\d+)(?=\.)")


def find_layers(names: Sequence[str]) -> dict[str, int]:
    """The depth of each weight of a ViT or Swin, of timm or `transformers`: 0 for what comes before the blocks.

    Blocks count from 1 through all stages; final norms and heads lie one above the last.
    """
    numbers = {name: tuple(int(match[1]) for match in _NUMBERED.finditer(name)) for name in names}
    # What joins stages stands, in timm, at the beginning of the stage that it leads to.
    blocks = sorted({number for number in numbers.values() if len(number) == max(map(len, numbers.values()))})
    depths = {}
    for name, number in numbers.items():
        before = "embed" in name or name.rsplit(".", 1)[-1] in ("cls_token", "mask_token", "reg_token")
        if number:
            depths[name] = 1 + next((rank for rank, block in enumerate(blocks) if block >= number), len(blocks) - 1)
        else:
            depths[name] = 0 if before else 1 + len(blocks)
    return depths


def make_groups(
    network: nn.Module,
    backbone: nn.Module,
    weight_decay: float,
    learning_rate: float,
    layer_decay: float,
    spared: Sequence[str] = NO_WEIGHT_DECAY,
) -> list[dict[str, Any]]:
    """Groups for an optimizer: the heads' first, whose rate is the peak, then the backbone's from its end down.

    Args:
        network: All that is trained.
        backbone: The part of it, or itself, whose rate falls from block to block.
        weight_decay: Not on biases, norms and what is spared.
        learning_rate: Of the heads.
        layer_decay: The rate of a block over that of the one above it; 1 for one rate.
        spared: Patterns of names without weight decay.
    """
    inner = {name: each for name, each in backbone.named_parameters() if each.requires_grad}
    ids = {id(each) for each in inner.values()}
    heads = {name: each for name, each in network.named_parameters() if each.requires_grad and id(each) not in ids}
    depths = find_layers(list(inner))
    top = max(depths.values(), default=0)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for part, parameters in (("heads", heads), (BACKBONE, inner)):
        for name, parameter in sorted(parameters.items(), key=lambda item: -depths.get(item[0], 0)):
            decays = parameter.ndim > 1 and not any(fnmatch(name, pattern) for pattern in spared)
            above = top - depths[name] if part == BACKBONE else -1
            new = {
                "params": [],
                "part": part,
                "lr": learning_rate * layer_decay ** max(above, 0),
                "weight_decay": weight_decay if decays else 0.0,
            }
            groups.setdefault((above, decays), new)["params"].append(parameter)
    return list(groups.values())
