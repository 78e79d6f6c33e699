import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModel, AutoModelForImageClassification

from synco_hub.hub.classifier import LinearHead
from synco_hub.hub.conversion.attention_heads import HeadsDecision
from synco_hub.hub.conversion.recognition import Recognised
from synco_hub.hub.conversion.report import ConversionReport
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.conversion.written_checkpoint import Converted, write_converted
from synco_hub.models import SynCoConfig, SynCoModel

SOURCE = CheckpointSource("file.pth", "torch", "0" * 64, {})
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


def converted(seed=0, **kwargs):
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig("vit-nano")).eval()
    return Converted(model, {}, HeadsDecision(3, "told"), ("online", "told"), None, None, **kwargs)


def test_a_backbone_lies_there_with_everything_that_belongs_to_it(tmp_path):
    network = converted()
    write_converted(tmp_path, "my-vit", SOURCE, Recognised("moby", "told"), network, REPORT)
    there = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "conversion_report.json"} <= there
    assert {"README.md", "card_facts.yaml"} <= there
    assert "license: mit" in (tmp_path / "README.md").read_text()
    assert 'from_pretrained("my-vit")' in (tmp_path / "README.md").read_text()
    loaded = AutoModel.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in network.model.state_dict().items())


def test_a_head_makes_a_classifier(tmp_path):
    head = LinearHead(torch.randn(2, 96), torch.randn(2), ["fern", "tree"])
    write_converted(tmp_path, "my-vit", SOURCE, Recognised("moby", "told"), replace(converted(), head=head), REPORT)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(loaded.classifier.weight, head.weight)
    assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "fern", "1": "tree"}


def test_what_does_not_load_as_it_was_is_no_checkpoint(tmp_path):
    """A state that is not the model's own stands for a converter that mixed two networks up."""
    other = {f"synco.{key}": value for key, value in converted(seed=1).model.state_dict().items()}
    with pytest.raises(RuntimeError, match="does not load as it was written"):
        write_converted(
            tmp_path, "my-vit", SOURCE, Recognised("moby", "told"), replace(converted(), state=other), REPORT
        )
