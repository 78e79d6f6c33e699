"""Every protocol by name, for Python as for the commands."""

import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

import synco_hub
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.protocols import EVALUATORS, TRAINED, evaluate, evaluator, measure, resolve
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, KnnSettings

DATA = "fractals:num_classes=3,train_images_per_class=5,test_images_per_class=2"
QUIET = {"batch_size": 8, "num_workers": 0, "device": "cpu", "progress": False}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def saved(directory, model=None):
    (model or SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("name", EVALUATORS)
def test_every_protocol_has_function_table_and_defaults(name):
    row = EVALUATORS[name]
    assert callable(resolve(row.function))
    assert callable(resolve(f"{row.function.partition(':')[0]}:format_table"))
    assert {*row.data} <= {field.name for field in fields(DatasetChoice)}
    assert not {*row.data} & {field.name for field in fields(row.settings)}
    assert row.settings().device is None


def test_a_model_by_name_on_a_data_set_by_name(tmp_path):
    model = saved(tmp_path / "one")
    result = synco_hub.evaluate("knn", model=model, dataset=DATA, k=[3], output=tmp_path / "r.json", **QUIET)
    assert EvaluationResult.load(tmp_path / "r.json", "knn").metrics == result.metrics
    assert list(result.metrics) == ["top1_k3"]
    assert result.dataset.count == 6
    again = measure("knn", str(model), DatasetChoice(DATA), KnnSettings(k=[3], **QUIET))
    assert again.metrics == result.metrics


def test_features_of_two_models_are_not_mixed(tmp_path):
    for name in ("one", "two"):
        saved(tmp_path / name)
    knn = {"dataset": DATA, "k": [3], **QUIET}
    plain = evaluate("knn", tmp_path / "one", **knn)
    kept = evaluate("knn", tmp_path / "one", save_features=tmp_path / "features", **knn)
    again = evaluate("knn", features=tmp_path / "features", k=[3], device="cpu")
    assert kept.metrics == plain.metrics == again.metrics
    evaluate("knn", tmp_path / "two", save_features=tmp_path / "others", **knn)
    (tmp_path / "others" / "test.safetensors").replace(tmp_path / "features" / "test.safetensors")
    with pytest.raises(ValueError, match="neighbours need one model"):
        evaluate("knn", features=tmp_path / "features", k=[3], device="cpu")


def test_nan_features_and_a_large_k_are_refused(tmp_path):
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    network.backbone.norm.bias.data[0] = torch.inf
    knn = {"dataset": DATA, "save_features": tmp_path / "features", **QUIET}
    broken = saved(tmp_path / "broken", network)
    with pytest.raises(ValueError, match="first at index 0"):
        evaluate("knn", broken, k=[3], **knn)
    with pytest.raises(ValueError, match="k=16 with 15 training images"):
        evaluate("knn", broken, k=[16], **knn)
    assert not (tmp_path / "features").exists()


def test_a_set_of_test_images_beside_a_folder_of_its_name_has_no_training_images(tmp_path, monkeypatch):
    for index in range(4):
        path = tmp_path / "imagenet-a" / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((50, 70, 3), 9 * index, dtype=np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="imagenet-a has test images only"):
        evaluate("knn", saved(tmp_path / "one"), "imagenet-a", data_dir="imagenet-a", **QUIET)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"protocol": "kn"}, "protocol 'kn' is unknown: use one of knn, classification"),
        ({"protocol": "linear-probe"}, "trains a classifier, which is a run of its own: synco-hub linear-probe"),
        ({"protocol": "knn", "neighbours": 3}, "knn has no setting 'neighbours'"),
        ({"protocol": "knn", "batchsize": 3}, "Did you mean 'batch_size'"),
        ({"protocol": "knn"}, "--model is missing: give the model to measure, or --features"),
        ({"protocol": "retrieval"}, "--model is missing: give the model to measure."),
        ({"protocol": "knn", "model": "m", "save_features": "FILE/x"}, "--save-features FILE/x: "),
        ({"protocol": "video-segmentation", "model": "m", "output": "FILE"}, "--output-dir FILE: is a file"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_loaded(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a file")
    with pytest.raises(ValueError, match=re.escape(said)):
        evaluate(**arguments)


def test_what_trains_names_its_command():
    for name, command in TRAINED.items():
        with pytest.raises(ValueError, match=f"synco-hub {name} "):
            evaluator(name)
        assert command.startswith(f"synco-hub {name} ")
