import pytest
import torch
from synco_hub.cli.evaluate_all import PROTOCOLS, run_all
from synco_hub.cli.knn_evaluation import knn_of_model

from synco_hub.features import ExtractionSettings
from synco_hub.hub.loading import LinearHead, save_classifier
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult

DATA = "fractals:num_classes=3,train_images_per_class=5,test_images_per_class=2"
QUIET = ExtractionSettings(batch_size=8, progress=False)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def test_a_classifier_is_measured_by_every_protocol(tmp_path):
    from synco_hub.data import load_dataset

    names = load_dataset(DATA, "test", image_size=32).class_names
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    head = LinearHead(torch.randn(3, network.config.hidden_size), torch.zeros(3), names)
    save_classifier(tmp_path / "run", "mine", network, image_processor(32), head)
    table = run_all(str(tmp_path / "run"), [DATA], tmp_path / "out", QUIET)
    files = sorted((tmp_path / "out").rglob("*.json"))
    assert [file.name for file in files] == ["classification.json", "knn.json"]
    assert [EvaluationResult.load(file).protocol.name for file in files] == ["classification", "knn"]
    assert "### knn" in table
    assert "paper, Table 12" in table


def test_nothing_measurable_is_an_error_with_reasons(tmp_path):
    with pytest.raises(ValueError, match="nothing could be measured: knn on nowhere: "):
        run_all("nothing", ["nowhere"], tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()


def test_a_data_set_that_cannot_be_reached_leaves_the_others(tmp_path, monkeypatch):
    def unreachable(model, choice, settings):
        if choice.dataset == "imagenet-a":
            raise ConnectionError("the Hub cannot be reached")
        return knn_of_model(model, choice, None, settings)

    monkeypatch.setitem(PROTOCOLS, "knn", unreachable)
    monkeypatch.delitem(PROTOCOLS, "classification")
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    table = run_all(str(tmp_path / "run"), [DATA, "imagenet-a"], tmp_path / "out", QUIET)
    assert "fractals" in table
    assert [file.name for file in (tmp_path / "out").rglob("*.json")] == ["knn.json"]
