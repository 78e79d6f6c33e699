import hashlib
import json

import numpy as np
import pytest
import torch

from synco_hub.hub.conversion.report import ConversionReport, feature_checksum, fixed_input
from synco_hub.models import SynCoConfig, SynCoModel


def test_the_fixed_input_is_the_same_whatever_was_drawn_before():
    torch.manual_seed(1)
    first = fixed_input(3, 8, 8)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(fixed_input(3, 8, 8), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing of the global generator was used
    assert first.std() == pytest.approx(1, abs=0.2)


def test_the_checksum_is_of_the_features():
    model = SynCoModel(SynCoConfig("vit-nano")).eval()
    found = feature_checksum(model)
    with torch.no_grad():
        features = model(fixed_input(3, 32, 32)).pooler_output.numpy()
    assert found["sha256"] == hashlib.sha256(np.ascontiguousarray(features, np.float32).tobytes()).hexdigest()
    assert found["mean"] == pytest.approx(float(features.mean()), abs=1e-6)
    assert found["std"] == pytest.approx(float(features.std(ddof=1)), abs=1e-6)
    assert found["first_values"] == pytest.approx(features[0, :8].tolist())
    model.backbone.blocks[0].attn.num_heads = 1
    model.backbone.blocks[0].attn.head_dim = 96
    assert feature_checksum(model)["sha256"] != found["sha256"]


def test_the_report_is_json_and_lines(tmp_path):
    features = {"mean": 0.0, "std": 1.0, "first_values": [0.1] * 8, "sha256": "a" * 64}
    report = ConversionReport(
        source={"name": "x.pth", "kind": "torch", "sha256": "b" * 64},
        layout={"name": "moby", "reason": "by its keys", "source": "a/b"},
        branch={"name": "online", "reason": "the only one"},
        backbone={"backbone": "deit-s", "window_size": None},
        heads={"num_heads": 6, "reason": "as built", "recorded": 12},
        mapped={"online": 150},
        renamed=[],
        dropped=[{"what": "target", "reason": "the other network", "tensors": 150, "keys": ["a"]}],
        tensors_in_file=300,
        features=features,
        licence={"id": "mit", "note": ""},
    )
    report.save(tmp_path)
    read = json.loads((tmp_path / "conversion_report.json").read_text())
    assert read["schema_version"] == 1
    assert read["clean"] is True
    assert read["leftover"] == read["missing"] == []
    text = "\n".join(report.lines())
    for said in ("heads: 6 (as built; the file's own config says 12)", "all 300 tensors", "b" * 64, "dropped: target"):
        assert said in text
    assert "window_size" not in text
