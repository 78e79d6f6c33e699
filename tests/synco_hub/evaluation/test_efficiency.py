import pytest
import torch
from torch import nn

from synco_hub.evaluation.efficiency import (
    count_operations,
    count_parameters,
    evaluate_efficiency,
    measure_peak_memory_mb,
    measure_seconds,
)
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.settings import EfficiencySettings


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
