"""Which number is differentiated, and what it is called."""

import pytest
import timm
import torch

from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel
from synco_hub.visualization import ClassFeatures, class_score
from synco_hub.visualization.class_score import FEATURE_NORM


def test_a_classifier_gives_the_logit_of_the_predicted_class():
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano", num_labels=3, id2label={0: "fern", 1: "tree", 2: "carpet"})
    model, pixels = SynCoForImageClassification(config).eval(), torch.randn(4, 3, 32, 32)
    torch.nn.init.normal_(model.classifier.weight)
    score = class_score(model, pixels)
    logits = model(pixels).logits
    torch.testing.assert_close(score.values, logits.max(dim=1).values)
    names = [("fern", "tree", "carpet")[index] for index in logits.argmax(dim=1)]
    assert score.descriptions == [f"score of predicted class {name}" for name in names]
    second = class_score(model, pixels, target=1)
    torch.testing.assert_close(second.values, logits[:, 1])
    assert second.descriptions == ["score of class tree"] * 4
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"target={wrong} is no class: there are 3"):
            class_score(model, pixels, target=wrong)


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_without_a_classifier_it_is_the_nearest_class_or_the_norm_and_says_so(backbone):
    torch.manual_seed(0)
    model, pixels = SynCoModel(SynCoConfig(backbone=backbone)).eval(), torch.randn(3, 3, 32, 32)
    features = model(pixels).pooler_output
    norm = class_score(model, pixels)
    torch.testing.assert_close(norm.values, features.square().sum(1).sqrt())
    assert norm.descriptions == [FEATURE_NORM] * 3
    classes = ClassFeatures(torch.randn(5, features.shape[1]), list("abcde"))
    nearest = class_score(model, pixels, classes=classes)
    cosines = torch.nn.functional.cosine_similarity(features[:, None], classes.features[None], dim=-1)
    torch.testing.assert_close(nearest.values, cosines.max(dim=1).values)
    assert nearest.descriptions == [f"similarity to nearest class {'abcde'[i]}" for i in cosines.argmax(dim=1)]
    with pytest.raises(ValueError, match="no classifier"):
        class_score(model, pixels, target=0)


def test_timm_models_with_and_without_a_head():
    torch.manual_seed(0)
    settings = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    headed = timm.create_model("vit_tiny_patch16_224", num_classes=4, **settings).eval()
    bare = timm.create_model("vit_tiny_patch16_224", num_classes=0, **settings).eval()
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(class_score(headed, pixels).values, headed(pixels).max(dim=1).values)
    torch.testing.assert_close(class_score(bare, pixels).values, bare(pixels).norm(dim=1))
