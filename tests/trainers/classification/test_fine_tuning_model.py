import pytest
import torch
from transformers import ResNetConfig, ResNetModel, ViTConfig, ViTForImageClassification, ViTModel

from synco_hub.evaluation.classification import ClassificationTargets
from synco_hub.models import SynCoConfig, SynCoModel
from trainers.classification.fine_tuning_model import check_fine_tunable, new_classifier

TARGETS = ClassificationTargets(torch.tensor([0, 1, 2]), ("a", "b", "c"))
TINY = ViTConfig(
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=16,
    patch_size=8,
    num_labels=3,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def test_our_backbone_keeps_its_weights_and_gets_names_and_dropout(tmp_path):
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    network.save_pretrained(tmp_path / "m")
    model = new_classifier(str(tmp_path / "m"), TARGETS, 0.3)
    assert model.dropout.p == model.config.classifier_dropout == 0.3
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert not model.synco.backbone.pos_embed.requires_grad
    for name, weights in network.state_dict().items():
        assert torch.equal(weights, model.synco.state_dict()[name])


def test_a_foreign_head_is_drawn_anew_and_dropout_leaves_its_names(tmp_path):
    old = ViTForImageClassification(TINY)
    old.save_pretrained(tmp_path / "vit")
    model = new_classifier(str(tmp_path / "vit"), TARGETS, 0.5)
    assert not torch.equal(model.classifier.weight, old.classifier.weight)
    assert set(model.state_dict()) == set(old.state_dict())
    images = torch.randn(4, 3, 16, 16)
    model.train()
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


def test_what_cannot_be_tuned(tmp_path):
    with pytest.raises(ValueError, match="give timm/vit_tiny"):
        check_fine_tunable("timm:vit_tiny")
    ResNetModel(ResNetConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], embedding_size=8)).save_pretrained(
        tmp_path / "resnet"
    )
    with pytest.raises(ValueError, match="no linear layer named classifier"):
        new_classifier(str(tmp_path / "resnet"), TARGETS, 0.1)
    broken = ViTModel(TINY, add_pooling_layer=False)
    weights = {name: value for name, value in broken.state_dict().items() if "norm" not in name}
    broken.save_pretrained(tmp_path / "broken", state_dict=weights)
    with pytest.raises(ValueError, match="weights of its backbone are missing"):
        new_classifier(str(tmp_path / "broken"), TARGETS, 0.1)
