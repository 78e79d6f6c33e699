"""`trainers.classification.linear_probe`, by its command: the result, the classifier, and going on after a stop."""

import json

import numpy as np
import pytest
import torch
from data_trees.original import imagenet_with_official_names
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTImageProcessor, ViTModel, pipeline

from synco_hub.data import EvaluationTransform, load_dataset
from synco_hub.hub.loading import load_classifier, load_model
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from trainers.linear_probe import main

DATA = "fractals:num_classes=5,train_images_per_class=12,test_images_per_class=6"
QUICK = (
    "--use-cpu --dataloader-num-workers 0 --disable-tqdm true --per-device-train-batch-size 16 --logging-steps 1"
).split()


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path_factory.getbasetemp() / "probe-home"))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def foreign(tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def probe(model, output, *flags: str, data: str = DATA) -> EvaluationResult:
    main([*QUICK, "--model", str(model), "--dataset", data, "--output-dir", str(output), *flags])
    return EvaluationResult.load(next(output.glob("linear_probe*.json")))


def test_a_grid_leaves_a_classifier_that_a_pipeline_loads(model, tmp_path):
    result = probe(model, tmp_path / "run", "--num-train-epochs", "2", "--learning-rates", "0.5", "5")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    backbone, _ = load_model(str(model))
    for name, weights in backbone.state_dict().items():
        assert torch.equal(weights, loaded.synco.state_dict()[name])
    images = load_dataset(DATA, "test", image_size=32)
    answer = pipeline("image-classification", model=str(tmp_path / "run"))(images.load_image(0))
    assert {entry["label"] for entry in answer} == set(images.class_names)

    chosen = result.protocol.parameters["chosen_base_learning_rate"]
    assert result.metrics["top1_last_epoch"] == result.metrics[f"top1_last_epoch_lr{chosen:g}"]
    assert result.metrics["top1_best_epoch"] >= result.metrics["top1_last_epoch"]
    assert result.metrics["top1_last_epoch"] == max(
        result.metrics[f"top1_last_epoch_lr{rate}"] for rate in ("0.5", "5")
    )
    assert result.protocol.name == "linear_probe"
    assert result.training_dataset is not None
    assert (result.training_dataset.count, result.dataset.count) == (60, 30)
    assert any("chosen on the test split" in note for note in result.notes)
    # The saved head, measured again by hand on the centre crops, gives the number of the result.
    classifier, processor, names = load_classifier(str(tmp_path / "run"))
    assert names == tuple(images.class_names)
    transform = EvaluationTransform.from_image_processor(processor)
    right = [
        int(classifier(transform(images.load_image(index))[None]).logits.argmax()) == images.labels[index]
        for index in range(len(images))
    ]
    assert result.metrics["top1_last_epoch"] == pytest.approx(100 * np.mean(right))


def test_a_head_of_a_grid_trains_as_if_alone(model, tmp_path):
    grid = probe(model, tmp_path / "grid", "--num-train-epochs", "2", "--learning-rates", "0.5", "5")
    for rate in ("0.5", "5"):
        alone = probe(model, tmp_path / f"alone{rate}", "--num-train-epochs", "2", "--learning-rates", rate)
        assert alone.metrics["top1_last_epoch"] == grid.metrics[f"top1_last_epoch_lr{rate}"]
        if float(rate) == grid.protocol.parameters["chosen_base_learning_rate"]:
            heads = [load_classifier(str(tmp_path / run))[0].classifier.weight for run in ("grid", f"alone{rate}")]
            assert torch.allclose(*heads, atol=1e-6)


def test_resume_ends_at_the_same_bits(model, tmp_path):
    # Three epochs in one go, and three of which the last one is done again from the checkpoint before it.
    probe(model, tmp_path / "whole", "--num-train-epochs", "3")
    probe(model, tmp_path / "stopped", "--num-train-epochs", "3")
    last = max((tmp_path / "stopped").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    last.rename(tmp_path / "moved")
    (tmp_path / "stopped" / "linear_probe.json").unlink()
    resumed = probe(model, tmp_path / "stopped", "--num-train-epochs", "3", "--resume")
    whole = EvaluationResult.load(tmp_path / "whole" / "linear_probe.json")
    assert resumed.metrics == whole.metrics
    heads = [load_classifier(str(tmp_path / run))[0].classifier.weight for run in ("whole", "stopped")]
    assert torch.equal(*heads)


def test_a_foreign_backbone_keeps_its_name_and_gets_a_head(foreign, tmp_path):
    probe(foreign, tmp_path / "run", "--num-train-epochs", "1")
    facts = json.loads((tmp_path / "run" / "linear_head.json").read_text())
    assert facts["model"] == str(foreign)
    assert "[CLS]" in facts["feature"]
    classifier, processor, names = load_classifier(str(tmp_path / "run"))
    pixels = processor(Image.new("RGB", (40, 40), "red"), return_tensors="pt").pixel_values
    assert classifier(pixels).logits.shape == (1, len(names))


def test_cached_features_are_labelled_as_another_protocol(model, tmp_path):
    flags = ["--cached-features", "--num-train-epochs", "1", "--eval-strategy", "no"]
    result = probe(model, tmp_path / "run", *flags)
    assert result.protocol.name == "linear_probe_cached"
    assert result.protocol.parameters["augmentation"] == "none"
    assert any("not the paper's protocol" in note for note in result.notes)


def test_low_shot_is_stated(model, tmp_path):
    result = probe(model, tmp_path / "run", "--num-train-epochs", "1", "--train-fraction", "0.25")
    assert result.training_dataset is not None
    assert result.training_dataset.count == 15
    assert "0.25 of each class drawn with seed 0, 15 of 60 images" in result.training_dataset.description


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--learning-rates", "0"], "every rate is above 0"),
        (["--learning-rate", "0.1"], "give --learning-rates"),
        (["--label-smoothing", "1"], "label_smoothing=1.0"),
        (["--dataset", "fractal"], "fractals"),
        (["--train-fraction", "2"], "train_fraction=2.0 is not in (0, 1]"),
        (["--leraning-rates", "1"], "'--learning-rates'"),
        (["--model", "nothing"], "neither a directory"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(model, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as exit_info:
        probe(model, tmp_path / "run", *flags)
    error = capsys.readouterr().err
    assert exit_info.value.code == 1
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_broken_weights_and_another_run_are_refused(model, tmp_path, capsys):
    probe(model, tmp_path / "run", "--num-train-epochs", "1")
    with pytest.raises(SystemExit):
        probe(model, tmp_path / "run", "--num-train-epochs", "2")
    assert "epochs was 1.0 and is now 2.0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        probe(model, tmp_path / "run", "--num-train-epochs", "1")
    assert "add --resume" in capsys.readouterr().err
    network = SynCoModel.from_pretrained(model)
    network.backbone.norm.weight.data[3] = float("nan")
    network.save_pretrained(model)
    with pytest.raises(SystemExit):
        probe(model, tmp_path / "broken")
    assert "the features of 30 of 30 images are NaN or infinite, first at index 0" in capsys.readouterr().err
    assert not (tmp_path / "broken").exists()


@pytest.mark.parametrize("rate", ["1e30", "3e38"])
def test_weights_that_are_no_numbers_are_never_the_result(model, tmp_path, capsys, rate):
    flags = ["--max-steps", "12", "--learning-rates", rate, "--logging-strategy", "no", "--save-strategy", "no"]
    with pytest.raises(SystemExit) as ended:
        probe(model, tmp_path / "run", *flags)
    assert ended.value.code == 1
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    assert "ower the learning rate" in last
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["classification_settings.json"]


@pytest.mark.parametrize("flags", [(), ("--cached-features",)])
def test_on_imagenets_validation_images_real_accuracy_stands_beside_top_1(model, tmp_path, flags):
    tree = imagenet_with_official_names(tmp_path / "imagenet", side=32)
    at = ["--data-dir", str(tree.root), "--learning-rates", "1", "30", "--num-train-epochs", "4", *flags]
    result = probe(model, tmp_path / "run", *at, data="imagenet-1k")
    network, processor = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval(), image_processor(32)
    right = []
    for path in (tree.root / "val").rglob("*.JPEG"):
        with torch.no_grad():
            guess = int(network(**processor(Image.open(path), return_tensors="pt")).logits.argmax())
        right += [guess in labels for labels in [tree.real[path.name]] if labels]
    share = sum(right) / len(right)
    assert result.metrics["top1_real_last_epoch"] == pytest.approx(100 * share)
    chosen = result.protocol.parameters["chosen_base_learning_rate"]
    assert result.metrics["top1_last_epoch"] == result.metrics[f"top1_last_epoch_lr{chosen:g}"]
    expected = 100 * (share * (1 - share) / len(right)) ** 0.5
    assert result.standard_errors["top1_real_last_epoch"] == pytest.approx(expected)
    assert f"ReaL: {14 - len(right)} of 14 images have no right class in it and do not count" in result.notes
