"""Checkpoints as other projects lay them out, built from plain timm networks, for the tests of conversion."""

import argparse
import sys
import types

import timm
import torch


def created(name, seed, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(name, **kwargs)


def randomised(network, seed=0):
    """Every weight away from the zeros and ones that hide a confusion of two of them."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if not name.endswith("pos_embed") or parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = parameter.data + 0.05 * noise
    return network.eval()


def vit(dim=384, depth=2, num_heads=12, sincos=True, seed=0, **kwargs):
    arguments = {"img_size": 32, "patch_size": 16, "num_classes": 0, **kwargs}
    network = created("vit_small_patch16_224", seed, embed_dim=dim, depth=depth, num_heads=num_heads, **arguments)
    if sincos:
        network.pos_embed.data = slow_sincos(network.patch_embed.grid_size, dim)
        network.pos_embed.requires_grad = False
    return randomised(network, seed)


def slow_sincos(grid, dim):
    """One number at a time, in the order of the moco-v3 code: sine and cosine of the row, then of the column."""
    table = torch.zeros(1, 1 + grid[0] * grid[1], dim)
    quarter = dim // 4
    for row in range(grid[0]):
        for column in range(grid[1]):
            for i in range(quarter):
                place = table[0, 1 + row * grid[1] + column]
                omega = torch.tensor(10000.0) ** (-i / quarter)
                place[i], place[quarter + i] = torch.sin(row * omega), torch.cos(row * omega)
                place[2 * quarter + i], place[3 * quarter + i] = torch.sin(column * omega), torch.cos(column * omega)
    return table


def swin(seed=0, eps=None, **kwargs):
    arguments = {"img_size": 32, "patch_size": 2, "embed_dim": 48, "depths": (2, 2), "num_heads": (2, 4)}
    network = created("swin_tiny_patch4_window7_224", seed, num_classes=0, **{**arguments, "window_size": 4, **kwargs})
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.LayerNorm) and eps is not None:
            module.eps = 1e-5 if name.endswith("norm2") and eps == "synco-v2" else 1e-6 if eps == "synco-v2" else eps
    return randomised(network, seed)


def microsoft_names(network):
    """A timm Swin's weights as Microsoft's code saves them: merging at the end of a stage, buffers in the file."""
    state = {f"patch_embed.{key}": value for key, value in network.patch_embed.state_dict().items()}
    stages = list(network.layers)
    for number, stage in enumerate(stages):
        for index, block in enumerate(stage.blocks):
            place = f"layers.{number}.blocks.{index}"
            state |= {f"{place}.{key}": value for key, value in block.state_dict().items()}
            area = block.window_area
            state[f"{place}.attn.relative_position_index"] = torch.zeros(area, area, dtype=torch.long)
            if index % 2 and block.shift_size[0]:
                windows = (block.input_resolution[0] // block.window_size[0]) ** 2
                state[f"{place}.attn_mask"] = torch.zeros(windows, area, area)
        if number + 1 < len(stages):
            merging = stages[number + 1].downsample.state_dict()
            state |= {f"layers.{number}.downsample.{key}": value for key, value in merging.items()}
    return state | {f"norm.{key}": value for key, value in network.norm.state_dict().items()}


def names_of(network):
    return microsoft_names(network) if hasattr(network, "layers") else dict(network.state_dict())


def head(input_dim, seed, hidden=24, output=16):
    generator = torch.Generator().manual_seed(seed)
    return {
        "linear_hidden.1.weight": torch.randn(hidden, input_dim, generator=generator),
        "linear_hidden.1.bias": torch.randn(hidden, generator=generator),
        "linear_hidden.2.weight": torch.randn(hidden, generator=generator),
        "linear_hidden.2.bias": torch.randn(hidden, generator=generator),
        "linear_hidden.2.running_mean": torch.randn(hidden, generator=generator),
        "linear_hidden.2.running_var": torch.rand(hidden, generator=generator) + 0.5,
        "linear_hidden.2.num_batches_tracked": torch.tensor(seed),
        "linear_out.weight": torch.randn(output, hidden, generator=generator),
        "linear_out.bias": torch.randn(output, generator=generator),
    }


def moby_like(online, target, config=None, queue_size=300, pointer=24):
    """The dictionary that the code of synco-v2 and MoBY saves."""
    state = {f"encoder.{key}": value for key, value in names_of(online).items()}
    state |= {f"encoder_k.{key}": value for key, value in names_of(target).items()}
    heads = (("projector", online.num_features, 1), ("projector_k", online.num_features, 2), ("predictor", 16, 3))
    for name, dim, seed in heads:
        state |= {f"{name}.{key}": value for key, value in head(dim, seed).items()}
    if queue_size:
        generator = torch.Generator().manual_seed(7)
        state["queue1"] = torch.randn(16, queue_size, generator=generator)
        state["queue2"] = torch.randn(16, queue_size, generator=generator)
        state["queue_ptr"] = torch.tensor([pointer])
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    whole = {"model": state, "optimizer": optimizer, "lr_scheduler": {}, "max_accuracy": 0.0, "epoch": 299}
    return whole if config is None else {**whole, "config": config}


def yacs(values):
    """A configuration of yacs; where that is not installed, of a class that pickles under the same name."""
    try:
        from yacs.config import CfgNode
    except ImportError:
        CfgNode = type("CfgNode", (dict,), {"__module__": "yacs.config"})
        config = types.ModuleType("yacs.config")
        config.CfgNode = CfgNode
        sys.modules |= {"yacs": types.ModuleType("yacs"), "yacs.config": config}
    return CfgNode({key: yacs(value) if isinstance(value, dict) else value for key, value in values.items()})


AUTHORS_CONFIG = {"MODEL": {"TYPE": "synco", "ENCODER": "vit_small", "SWIN": {"NORM_BEFORE_MLP": "ln"}}}
MOBY_CONFIG = {"MODEL": {"TYPE": "moby", "SWIN": {"NUM_HEADS": [2, 4]}, "MOBY": {"ENCODER": "swin"}}}


def moco_v3(online, target):
    state = {f"module.base_encoder.{key}": value for key, value in names_of(online).items()}
    state |= {f"module.momentum_encoder.{key}": value for key, value in names_of(target).items()}
    for name in ("base_encoder.head", "momentum_encoder.head", "predictor"):
        state |= {f"module.{name}.{i}.weight": torch.randn(4, 4) for i in (0, 3, 6)}
    return {"epoch": 300, "arch": "vit_small", "state_dict": state, "optimizer": {}, "scaler": {}}


def dino(online, target):
    def branch(network, prefix):
        state = {f"{prefix}backbone.{key}": value for key, value in names_of(network).items()}
        return state | {
            f"{prefix}head.mlp.0.weight": torch.randn(4, 4),
            f"{prefix}head.last_layer.weight_g": torch.ones(1),
        }

    return {
        "student": branch(online, "module."),
        "teacher": branch(target, ""),
        "optimizer": {},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", patch_size=16),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }
