import pytest
import torch

from synco_hub.hub.export.network import compared, layer_norm_epsilons, make_plain_config, open_checkpoint
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor


@pytest.fixture
def checkpoint(tmp_path):
    def save(model):
        model.save_pretrained(tmp_path / "model")
        image_processor(32).save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


def test_backbones_and_classifiers_are_told_apart(checkpoint):
    exported = open_checkpoint(checkpoint(SynCoModel(SynCoConfig("vit-nano"))))
    assert not exported.is_classifier
    assert exported.head is None
    assert exported.outputs(torch.zeros(2, 3, 32, 32)).shape == (2, 96)
    exported = open_checkpoint(checkpoint(SynCoForImageClassification(SynCoConfig("vit-nano", num_labels=7))))
    assert exported.is_classifier
    assert exported.head["weight"].shape == (7, 96)
    assert exported.outputs(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ValueError, match="neither a directory"):
        open_checkpoint("nothing-of-the-kind")


def test_the_difference_is_the_largest(checkpoint):
    exported = open_checkpoint(checkpoint(SynCoModel(SynCoConfig("vit-nano"))))

    def wrong(images):
        outputs = exported.outputs(images)
        outputs[1, 5] += 0.25
        return outputs

    assert compared(exported, exported.outputs)[0] == 0
    assert compared(exported, wrong)[0] == pytest.approx(0.25, abs=1e-5)
    with pytest.raises(ValueError, match="gives"):
        compared(exported, lambda images: exported.outputs(images)[:, :5])


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano", "vit_small_patch16_224"])
def test_the_plain_config_builds_the_same(backbone):
    config = SynCoConfig(backbone, id2label={0: "a", 1: "b", 2: "c"}, layer_norm_eps={"final": 1e-3})
    again = SynCoConfig(**make_plain_config(config))
    assert again.to_dict() == config.to_dict()


def test_epsilons_by_name():
    epsilons = layer_norm_epsilons(SynCoModel(SynCoConfig("vit-nano", layer_norm_eps={"final": 1e-3})).backbone)
    assert epsilons["norm"] == 1e-3
    assert epsilons["blocks.0.norm1"] == 1e-6
    assert len(epsilons) == 7
