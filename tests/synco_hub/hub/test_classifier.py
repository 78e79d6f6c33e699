import pytest
import torch
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from synco_hub.hub.classifier import HEAD_FACTS, LinearHead, load_classifier, save_classifier
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def test_our_backbone_becomes_a_whole_classifier(tmp_path):
    torch.manual_seed(0)
    network = SynCoModel(SynCoConfig(backbone="swin-nano")).eval()
    head = LinearHead(torch.randn(3, 96), torch.randn(3), ("a", "b", "c"))
    save_classifier(tmp_path / "run", "mine", network, image_processor(32), head)
    classifier, processor, names = load_classifier(str(tmp_path / "run"))
    assert isinstance(classifier, SynCoForImageClassification)
    assert names == ("a", "b", "c")
    assert processor.crop_size["height"] == 32
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).pooler_output @ head.weight.T + head.bias
        assert torch.allclose(classifier(images).logits, expected, atol=1e-6)


def test_a_foreign_backbone_is_named(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    torch.manual_seed(1)
    network = ViTModel(config, add_pooling_layer=False).eval()
    network.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    head = LinearHead(torch.randn(2, 16), torch.randn(2), ("a", "b"), multi_label=True)
    save_classifier(tmp_path / "run", str(tmp_path / "vit"), network, image_processor(32), head)
    classifier, _, _ = load_classifier(str(tmp_path / "run"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).last_hidden_state[:, 0] @ head.weight.T + head.bias
        assert torch.allclose(classifier(images).logits, expected, atol=1e-6)
    assert classifier.multi_label
    facts = (tmp_path / "run" / HEAD_FACTS).read_text()
    (tmp_path / "run" / HEAD_FACTS).write_text(facts.replace('"a",', ""))
    with pytest.raises(ValueError, match="2 outputs and 1 class names"):
        load_classifier(str(tmp_path / "run"))
    with pytest.raises(ValueError, match="has no trained classifier"):
        load_classifier(str(tmp_path / "vit"))
