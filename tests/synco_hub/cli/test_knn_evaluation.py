import pytest
import torch

from synco_hub.cli.evaluation_inputs import DataChoice
from synco_hub.cli.knn_evaluation import knn_of_features, knn_of_model
from synco_hub.features import ExtractionSettings
from synco_hub.models import SynCoConfig, SynCoModel, image_processor

CHOICE = DataChoice("fractals:num_classes=3,train_images_per_class=5,test_images_per_class=2")
QUIET = ExtractionSettings(batch_size=8, progress=False)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def test_features_of_two_models_are_not_mixed(tmp_path):
    for name in ("one", "two"):
        SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / name)
        image_processor(32).save_pretrained(tmp_path / name)
    plain = knn_of_model(str(tmp_path / "one"), CHOICE, [3], QUIET)
    kept = knn_of_model(str(tmp_path / "one"), CHOICE, [3], QUIET, tmp_path / "features")
    assert kept.metrics == plain.metrics == knn_of_features(tmp_path / "features", [3], "cpu").metrics
    knn_of_model(str(tmp_path / "two"), CHOICE, [3], QUIET, tmp_path / "others")
    (tmp_path / "others" / "test.safetensors").replace(tmp_path / "features" / "test.safetensors")
    with pytest.raises(ValueError, match="neighbours need one model"):
        knn_of_features(tmp_path / "features", [3], "cpu")


def test_nan_features_and_a_large_k_are_refused(tmp_path):
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    network.backbone.norm.bias.data[0] = torch.inf
    network.save_pretrained(tmp_path / "broken")
    image_processor(32).save_pretrained(tmp_path / "broken")
    with pytest.raises(ValueError, match="first at index 0"):
        knn_of_model(str(tmp_path / "broken"), CHOICE, [3], QUIET, tmp_path / "features")
    with pytest.raises(ValueError, match="k=16 with 15 training images"):
        knn_of_model(str(tmp_path / "broken"), CHOICE, [16], QUIET, tmp_path / "features")
    assert not (tmp_path / "features").exists()
