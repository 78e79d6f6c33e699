import pytest
import torch
from torch.nn import functional as F
from transformers import (
    LevitConfig,
    LevitModel,
    ResNetConfig,
    ResNetModel,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from synco_hub.evaluation.classification import ClassificationTargets
from synco_hub.models import SynCoConfig, SynCoModel
from trainers.classification.heads import (
    LinearHeads,
    check_fine_tunable,
    classification_loss,
    make_classifier,
    mask_targets,
)


def test_heads_start_equal_and_each_gradient_is_its_own():
    generator = torch.Generator().manual_seed(0)
    heads = LinearHeads(6, 5, 3, label_smoothing=0.1)
    features, targets = torch.randn(8, 6, generator=generator), torch.randint(5, (8,), generator=generator)
    output = heads(features, targets)
    assert output["logits"].shape == (3, 8, 5)
    assert torch.equal(output["logits"][0], output["logits"][2])
    output["loss"].backward()
    alone = torch.nn.Linear(6, 5)
    alone.load_state_dict(dict(zip(("weight", "bias"), heads.head(1), strict=True)))
    loss = F.cross_entropy(alone(features), targets, label_smoothing=0.1)
    loss.backward()
    assert torch.allclose(output["loss"], 3 * loss)
    assert torch.allclose(heads.weights[1].grad, alone.weight.grad, atol=1e-7)
    assert torch.allclose(heads.biases[1].grad, alone.bias.grad, atol=1e-7)


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
    model = make_classifier(str(tmp_path / "m"), TARGETS, 0.3)
    assert model.dropout.p == model.config.classifier_dropout == 0.3
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert not model.synco.backbone.pos_embed.requires_grad
    for name, weights in network.state_dict().items():
        assert torch.equal(weights, model.synco.state_dict()[name])


def test_a_foreign_head_is_drawn_anew_and_dropout_leaves_its_names(tmp_path):
    old = ViTForImageClassification(TINY)
    old.save_pretrained(tmp_path / "vit")
    model = make_classifier(str(tmp_path / "vit"), TARGETS, 0.5)
    assert not torch.equal(model.classifier.weight, old.classifier.weight)
    assert set(model.state_dict()) == set(old.state_dict())
    images = torch.randn(4, 3, 16, 16)
    model.train()
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


@pytest.mark.parametrize("family", ["resnet", "timm"])
def test_a_head_behind_a_pooling_or_within_timm_is_found(family, tmp_path):
    if family == "resnet":
        network = ResNetModel(ResNetConfig(hidden_sizes=[8, 8], depths=[1, 1], embedding_size=8))
    else:
        network = TimmWrapperModel(TimmWrapperConfig(architecture="test_vit"))
    network.save_pretrained(tmp_path / family)
    model = make_classifier(str(tmp_path / family), TARGETS, 0.5)
    head = model.classifier[1] if family == "resnet" else model.timm_model.head
    assert head.out_features == 3
    assert torch.equal(head.bias, torch.zeros(3))
    kept = [weights for name, weights in model.state_dict().items() if name.endswith(("conv1.weight", "proj.weight"))]
    assert all(any(torch.equal(weights, each) for each in network.state_dict().values()) for weights in kept)
    size = 32 if family == "resnet" else 160
    pixels = torch.randn(2, 3, size, size)
    first, second = (model.train()(pixel_values=pixels).logits for _ in range(2))
    assert not torch.allclose(first, second)


def test_what_cannot_be_tuned(tmp_path):
    with pytest.raises(ValueError, match="give timm/vit_tiny"):
        check_fine_tunable("timm:vit_tiny")
    LevitModel(
        LevitConfig(hidden_sizes=[16, 16, 16], depths=[1, 1, 1], num_attention_heads=[2, 2, 2])
    ).save_pretrained(tmp_path / "levit")
    with pytest.raises(ValueError, match="no linear layer with a bias named classifier"):
        make_classifier(str(tmp_path / "levit"), TARGETS, 0.1)
    broken = ViTModel(TINY, add_pooling_layer=False)
    weights = {name: value for name, value in broken.state_dict().items() if "norm" not in name}
    broken.save_pretrained(tmp_path / "broken", state_dict=weights)
    with pytest.raises(ValueError, match="weights of its backbone are missing"):
        make_classifier(str(tmp_path / "broken"), TARGETS, 0.1)


def test_unreadable_images_do_not_count():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 4, generator=generator), torch.randint(4, (6,), generator=generator)
    bad = torch.tensor([False, True, False, False, True, False])
    expected = F.cross_entropy(logits[~bad], targets[~bad], label_smoothing=0.1)
    assert torch.allclose(classification_loss(logits, mask_targets(targets, bad)), expected)
    assert classification_loss(logits, mask_targets(targets, bad | True)) == 0


def test_cells_that_do_not_count_leave_binary_cross_entropy():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 4, generator=generator)
    targets = torch.randint(-1, 2, (6, 4), generator=generator).float()
    bad = torch.tensor([True, False, False, False, False, False])
    total, count = 0.0, 0
    for row in range(1, 6):
        for column in range(4):
            if targets[row, column] >= 0:
                probability = logits[row, column].sigmoid()
                total -= (probability if targets[row, column] == 1 else 1 - probability).log()
                count += 1
    assert torch.allclose(classification_loss(logits, mask_targets(targets, bad)), total / count)
