"""Depths of weights against timm's own grouping, and what each weight's rate and decay are."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from transformers import SwinConfig, SwinForImageClassification, ViTConfig, ViTForImageClassification

from trainers.layer_decay import BACKBONE, find_layers, make_groups


def networks():
    vit = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 3, "num_heads": 3}
    swin = {"img_size": 32, "patch_size": 2, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    yield timm.create_model("vit_tiny_patch16_224", num_classes=0, **vit)
    yield timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **swin)


def rates(groups, network):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(each)]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}


def test_a_vit_has_the_steps_of_timm():
    network, _ = networks()
    spared = ("*cls_token", "*pos_embed")
    ours = rates(make_groups(network, network, 0.1, 2.0, 0.5, spared), network)
    theirs = {}
    for group in param_groups_layer_decay(network, 0.1, ("cls_token", "pos_embed"), layer_decay=0.5):
        for each in group["params"]:
            theirs[id(each)] = (2.0 * group["lr_scale"], group["weight_decay"])
    for name, each in network.named_parameters():
        rate, decay = theirs[id(each)]
        # timm counts the final norm to the last block, BEiT's code and this one above it.
        assert ours[name] == (rate if name.startswith("norm.") else rate / 2, decay), name


def test_the_stages_of_a_swin_are_one_row_of_blocks():
    _, network = networks()
    depths = find_layers([name for name, _ in network.named_parameters()])
    assert depths["patch_embed.proj.weight"] == 0
    blocks = [depths[f"layers.{stage}.blocks.{block}.norm1.weight"] for stage in (0, 1) for block in (0, 1)]
    assert blocks == [1, 2, 3, 4]
    # What leads to a stage learns as its first block does.
    assert depths["layers.1.downsample.reduction.weight"] == 3
    assert depths["norm.weight"] == 5


@pytest.mark.parametrize(
    "network",
    [
        ViTForImageClassification(
            ViTConfig(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32)
        ),
        SwinForImageClassification(
            SwinConfig(image_size=32, patch_size=2, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4)
        ),
    ],
)
def test_stock_models_are_numbered_too(network):
    depths = find_layers([name for name, _ in network.named_parameters()])
    assert sorted(set(depths.values())) == [0, 1, 2, 3]
    assert depths["classifier.weight"] == 3
    assert all(depth == 0 for name, depth in depths.items() if "embeddings" in name)


def test_heads_come_first_with_the_whole_rate_and_frozen_weights_are_left_out():
    network = torch.nn.ModuleDict({"backbone": next(networks()), "head": torch.nn.Linear(48, 4)})
    network["backbone"].pos_embed.requires_grad = False
    groups = make_groups(network, network["backbone"], 0.1, 1.0, 0.75)
    assert [group["part"] for group in groups[:3]] == ["heads", "heads", BACKBONE]
    assert {group["lr"] for group in groups[:2]} == {1.0}
    assert groups[2]["lr"] == 1.0
    assert groups[-1]["lr"] == pytest.approx(0.75**4)
    grouped = sum(len(group["params"]) for group in groups)
    assert grouped == sum(1 for parameter in network.parameters() if parameter.requires_grad)
    decayed = [each for group in groups if group["weight_decay"] for each in group["params"]]
    assert all(each.ndim > 1 for each in decayed)
    assert not any(each is network["backbone"].cls_token for each in decayed)
