import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification

from synco_hub.hub.conversion.configuration import HeadsDecision
from synco_hub.hub.conversion.recognition import Recognised
from synco_hub.hub.conversion.report import ConversionReport, Converted, compute_feature_checksum, write_converted
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.export.network import make_fixed_input
from synco_hub.hub.loading import LinearHead
from synco_hub.hub.preprocessing import choose_preprocessing
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.weights_identity import hash_weights

SOURCE = CheckpointSource("file.pth", "torch", "0" * 64, {})
ASSUMED = choose_preprocessing(None, None, 32, 3, told=False)
REPORT = ConversionReport(
    source={"name": "file.pth", "kind": "torch", "sha256": "0" * 64},
    layout={"name": "moby", "reason": "told", "source": "somebody"},
    branch={"name": "online", "reason": "told"},
    backbone={},
    heads={"num_heads": 3},
    mapped={},
    renamed=[],
    dropped=[],
    tensors_in_file=0,
    features={},
    licence={},
)


def test_the_fixed_input_is_the_same_whatever_was_drawn_before():
    torch.manual_seed(1)
    first = make_fixed_input(3, 8, 8)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(make_fixed_input(3, 8, 8), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nothing of the global generator was used
    assert first.std() == pytest.approx(1, abs=0.2)


def test_the_checksum_is_of_the_features():
    model = SynCoModel(SynCoConfig("vit-nano")).eval()
    found = compute_feature_checksum(model)
    with torch.no_grad():
        features = model(make_fixed_input(3, 32, 32)).pooler_output.numpy()
    assert found["sha256"] == hashlib.sha256(np.ascontiguousarray(features, np.float32).tobytes()).hexdigest()
    assert found["mean"] == pytest.approx(float(features.mean()), abs=1e-6)
    assert found["std"] == pytest.approx(float(features.std(ddof=1)), abs=1e-6)
    assert found["first_values"] == pytest.approx(features[0, :8].tolist())
    model.backbone.blocks[0].attn.num_heads = 1
    model.backbone.blocks[0].attn.head_dim = 96
    assert compute_feature_checksum(model)["sha256"] != found["sha256"]


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


def converted(seed=0, **kwargs):
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig("vit-nano")).eval()
    return Converted(model, {}, HeadsDecision(3, "told"), ("online", "told"), None, None, **kwargs)


def test_a_backbone_lies_there_with_everything_that_belongs_to_it(tmp_path):
    network = converted()
    write_converted(tmp_path, "my-vit", SOURCE, Recognised("moby", "told"), network, REPORT, ASSUMED)
    there = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "conversion_report.json"} <= there
    assert {"README.md", "card_facts.yaml"} <= there
    assert "license: mit" in (tmp_path / "README.md").read_text()
    assert 'from_pretrained("my-vit")' in (tmp_path / "README.md").read_text()
    loaded = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in network.model.state_dict().items())
    noted = json.loads((tmp_path / "conversion_report.json").read_text())["weights"]
    assert noted == hash_weights(AutoModel.from_pretrained(tmp_path))


def test_a_head_makes_a_classifier(tmp_path):
    head = LinearHead(torch.randn(2, 96), torch.randn(2), ["fern", "tree"])
    write_converted(
        tmp_path, "my-vit", SOURCE, Recognised("moby", "told"), replace(converted(), head=head), REPORT, ASSUMED
    )
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, head.weight)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "fern", "1": "tree"}


def test_what_does_not_load_as_it_was_is_no_checkpoint(tmp_path):
    """A state that is not the model's own stands for a converter that mixed two networks up."""
    other = {f"synco.{key}": value for key, value in converted(seed=1).model.state_dict().items()}
    with pytest.raises(RuntimeError, match="does not load as it was written"):
        write_converted(
            tmp_path, "my-vit", SOURCE, Recognised("moby", "told"), replace(converted(), state=other), REPORT, ASSUMED
        )
