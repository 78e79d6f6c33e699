import json

import pytest
import timm
import torch
from safetensors import safe_open

from synco_hub.hub.export.network import Exported, compared
from synco_hub.hub.export.to_timm import export_safetensors, export_timm, make_timm_state
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor


def exported(backbone, classes=None, **numbers):
    config = SynCoConfig(backbone, **numbers, **({"num_labels": classes} if classes else {}))
    model = SynCoForImageClassification(config) if classes else SynCoModel(config)
    return Exported("x", model.eval(), image_processor(config.image_size, config.num_channels))


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_the_state_is_a_classifiers_of_timm(backbone):
    state = make_timm_state(exported(backbone, classes=5))
    network = exported(backbone, classes=5).backbone
    network.reset_classifier(5)
    assert {key: value.shape for key, value in state.items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }


@pytest.mark.parametrize(
    "numbers",
    [
        {"backbone": "vit-nano", "num_heads": 6, "mlp_ratio": 2.0, "num_channels": 1},
        {"backbone": "swin-nano", "depth": [1, 2], "num_heads": [4, 4], "image_size": 64},
        {"backbone": "swin-v2-t", "image_size": 64, "depth": [1, 1], "num_heads": [3, 6], "window_size": 4},
    ],
)
def test_timm_builds_the_same_network_from_the_folder(tmp_path, numbers):
    source = exported(**numbers)
    facts = export_timm(source, tmp_path)
    network = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert compared(source, network)[0] <= 1e-5
    assert facts["exact"]
    preprocessing = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    assert preprocessing["crop_pct"] == pytest.approx(224 / 256, abs=0.02)


def test_the_plain_file_says_how_many_heads(tmp_path):
    source = exported("vit-nano", num_heads=6)
    export_safetensors(source, tmp_path)
    with safe_open(tmp_path / "backbone.safetensors", "pt") as file:
        assert file.metadata()["num_heads"] == "6"
        for key, tensor in source.backbone.state_dict().items():
            assert torch.equal(file.get_tensor(key), tensor)
