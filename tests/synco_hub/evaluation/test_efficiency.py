import subprocess

import huggingface_hub
import pytest
import timm
import torch
from torch import nn
from transformers import ViTConfig, ViTImageProcessor, ViTModel

import synco_hub
from synco_hub.evaluation.efficiency import (
    count_operations,
    count_parameters,
    evaluate_efficiency,
    measure_peak_memory_mb,
    measure_seconds,
)
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import EfficiencySettings
from trainers.pretraining_model import SynCoForPreTraining
from trainers.step_time import main


def vit_operations(size: int, patch: int, width: int, depth: int) -> int:
    """2 × multiply-adds of a ViT by hand: patches, four projections, two attention products, MLP."""
    tokens = (size // patch) ** 2 + 1
    patches = (tokens - 1) * patch * patch * 3 * width
    block = tokens * width * width * (3 + 1 + 8) + 2 * tokens * tokens * width
    return 2 * (patches + depth * block)


@pytest.mark.parametrize(("size", "patch", "width", "depth", "heads"), [(32, 8, 48, 2, 3), (64, 16, 32, 3, 2)])
def test_operations_of_a_vit_equal_those_counted_by_hand(size, patch, width, depth, heads):
    config = SynCoConfig(
        backbone="vit-nano", image_size=size, patch_size=patch, embed_dim=width, depth=depth, num_heads=heads,
        mlp_ratio=4.0,
    )  # fmt: skip
    settings = EfficiencySettings(batch_size=2, repeats=3)
    result = evaluate_efficiency(EvaluatedModel(SynCoModel(config), None, "small"), settings)
    assert result.metrics["gflops_per_image"] * 1e9 == pytest.approx(vit_operations(size, patch, width, depth))
    assert result.metrics["images_per_second"] == pytest.approx(2e3 / result.metrics["milliseconds_per_batch"])
    assert result.protocol.parameters["precision"] == "fp32"
    assert result.model.name == "small"


@pytest.mark.parametrize(("backbone", "millions"), [("deit-s", 21.665664), ("swin-t", 27.519354)])
def test_parameters_of_table_10(backbone, millions):
    with torch.device("meta"):
        model = SynCoModel(SynCoConfig(backbone=backbone))
    assert count_parameters(model)[0] / 1e6 == pytest.approx(millions)


def test_shared_and_frozen_parameters():
    first, second = nn.Linear(4, 5, bias=False), nn.Linear(4, 5)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    assert count_parameters(nn.ModuleList([first, second])) == (25, 20)


def test_operations_of_a_matrix_product():
    a, b = torch.randn(7, 11), torch.randn(11, 13)
    assert count_operations(lambda: a @ b) == 2 * 7 * 11 * 13


def test_the_model_stays_as_it_is_and_autocast_runs():
    model = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate_efficiency(
        EvaluatedModel(model, None, "m"), EfficiencySettings(batch_size=2, repeats=1, precision="bf16")
    )
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_warm_up_is_not_timed():
    calls: list[int] = []
    assert len(measure_seconds(lambda: calls.append(1), repeats=4, warmup=3, device="cpu")) == 4
    assert len(calls) == 7


def test_peak_memory_sees_a_large_tensor():
    before = measure_peak_memory_mb("cpu")
    torch.ones(300_000_000 // 4 + int(before * 1e6) // 4)
    assert measure_peak_memory_mb("cpu") - before > 200


@pytest.mark.parametrize(
    ("values", "message"), [({"batch_size": 0}, "batch_size=0"), ({"precision": "int8"}, "'int8'")]
)
def test_impossible_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        EfficiencySettings(**values)


def test_the_cost_of_a_model_is_its_own(tmp_path, monkeypatch):
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    backbone = tmp_path / "run"

    def step(command, check):
        measured.append(command)
        main(command[3:])

    measured: list = []
    monkeypatch.setattr(subprocess, "run", step)
    quick = {"batch_size": 2, "repeats": 1, "device": "cpu", "progress": False}
    used = synco_hub.evaluate("efficiency", tmp_path / "run", **quick)
    assert not measured
    assert not [name for name in used.metrics if name.startswith("train_")]
    both = synco_hub.evaluate("efficiency", backbone, methods="moby", **quick)
    pretraining = SynCoForPreTraining(SynCoConfig(backbone="vit-nano", depth=1, pretraining={"method": "moby"}))
    assert (
        both.metrics["train_moby_total_parameters_m"] == sum(each.numel() for each in pretraining.parameters()) / 1e6
    )
    with pytest.raises(ValueError, match="--backbone deit-s names the network without --model"):
        synco_hub.evaluate("efficiency", backbone, backbone="deit-s", **quick)


def test_the_cost_of_networks_that_are_not_ours(tmp_path, monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    cached = str(tmp_path / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr("synco_hub.hub.model_names.try_to_load_from_cache", lambda *args, **rest: cached)
    quick = {"batch_size": 2, "repeats": 1, "device": "cpu", "progress": False}
    result = synco_hub.evaluate("efficiency", "timm:test_vit", **quick)
    assert result.protocol.parameters["input"] == [3, 160, 160]
    assert result.metrics["gflops_per_image"] > 0
    with pytest.raises(ValueError, match="training steps are those of this package's networks"):
        synco_hub.evaluate("efficiency", "timm:test_vit", methods="moby", **quick)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=(48, 32),
        patch_size=8, num_channels=1,
    )  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 48, "width": 32}).save_pretrained(tmp_path / "vit")
    assert synco_hub.evaluate("efficiency", tmp_path / "vit", **quick).protocol.parameters["input"] == [1, 48, 32]
