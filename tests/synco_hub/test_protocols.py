"""Every protocol by name: the numbers are those of its own function, and what does not fit is said in one line."""

import inspect
import pickle
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import synco_hub
from synco_hub.data import EvaluationDataset, load_dataset
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.davis import load_davis, write_mask
from synco_hub.data.revisited_retrieval import load_retrieval_data
from synco_hub.data.voc_boxes import load_voc_boxes
from synco_hub.evaluation.adversarial import AdversarialRun, list_null_attacks
from synco_hub.evaluation.attacks import choose_attacks
from synco_hub.evaluation.classification import evaluate_classification
from synco_hub.evaluation.discovery import evaluate_discovery
from synco_hub.evaluation.knn import evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.out_of_distribution import DetectionSets, evaluate_out_of_distribution
from synco_hub.evaluation.retrieval import evaluate_retrieval
from synco_hub.evaluation.robustness import RobustnessRun
from synco_hub.evaluation.robustness_sets import plan_on_the_fly
from synco_hub.evaluation.video_segmentation import evaluate_video_segmentation
from synco_hub.hub.loading import load_classifier, load_model
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from synco_hub.protocols import BACKBONE, CLASSIFIER, EVALUATORS, TRAINED, find_evaluator, measure, resolve
from synco_hub.results import EvaluationResult
from synco_hub.settings import (
    AdversarialSettings,
    DatasetChoice,
    DiscoverySettings,
    ForwardSettings,
    KnnSettings,
    RetrievalSettings,
    RobustnessSettings,
    VideoSegmentationSettings,
)
from synco_hub.weights_identity import hash_saved_weights

FRACTALS = "fractals:num_classes=5,train_images_per_class=6,test_images_per_class=3"
QUIET = {"batch_size": 8, "num_workers": 0, "device": "cpu", "progress": False}
SINGLE = {"device": "cpu", "progress": False}
ANNOTATION = """<annotation><object><name>cat</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object></annotation>"""


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("classifier")
    names = load_dataset(FRACTALS, "test", cache_dir=tmp_path_factory.mktemp("cache")).class_names
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano", depth=1, num_labels=5, id2label=dict(enumerate(names)))
    network = SynCoForImageClassification(config)
    network.classifier.weight.data.mul_(100)  # far from the drawn head, which gives every class the same logit
    network.save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    return str(folder)


def loaded(name: str) -> EvaluatedModel:
    return EvaluatedModel(*load_model(name), name, revision="none: a local directory")


def loaded_classifier(name: str) -> EvaluatedModel:
    network, processor, names = load_classifier(name)
    return EvaluatedModel(network, processor, name, names, "none: a local directory")


def split(name: str, which: str, model: EvaluatedModel) -> EvaluationDataset:
    return EvaluationDataset(load_dataset(name, which, image_size=32), model.transform)


def same(result: EvaluationResult, inner: EvaluationResult) -> None:
    """All but the time that it took."""
    timed = ("seconds_", "propagation_s")
    numbers = [
        {name: value for name, value in each.metrics.items() if not name.startswith(timed)} for each in (result, inner)
    ]
    assert numbers[0] == numbers[1]
    assert replace(result, metrics={"a": 1}, duration_s=0) == replace(inner, metrics={"a": 1}, duration_s=0)


def checked_file(result: EvaluationResult, file: Path) -> None:
    assert EvaluationResult.load(file).metrics == result.metrics
    kept = EvaluationResult.load(file).model
    assert (kept.revision, kept.precision) == ("none: a local directory", "float32")
    # The classifier as a whole, or the backbone alone: as the files have them.
    whole, backbone = hash_saved_weights(Path(kept.name))
    assert kept.weights == (whole if kept.feature == "classifier" else backbone)


def test_knn(backbone, tmp_path):
    model = loaded(backbone)
    result = synco_hub.evaluate("knn", backbone, FRACTALS, tmp_path / "k.json", k=[3, 5], **QUIET)
    sides = [split(FRACTALS, which, model) for which in ("train", "test")]
    same(result, evaluate_knn(model, *sides, KnnSettings(k=[3, 5], **QUIET)))
    checked_file(result, tmp_path / "k.json")
    same(measure("knn", backbone, DatasetChoice(FRACTALS), KnnSettings(k=[3, 5], **QUIET)), result)
    assert list(result.metrics) == ["top1_k3", "top1_k5", "top5_k5"]
    same(synco_hub.evaluate("knn", backbone, DatasetChoice(FRACTALS), k=(3, 5), **QUIET), result)
    with pytest.raises(ValueError, match=r"--device gpu: cannot be used here .*; give cpu"):
        synco_hub.evaluate("knn", backbone, FRACTALS, **{**QUIET, "device": "gpu"})


def test_knn_of_kept_features_needs_no_model_and_of_two_models_is_refused(backbone, tmp_path):
    torch.manual_seed(1)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "other")
    image_processor(32).save_pretrained(tmp_path / "other")
    one, two = tmp_path / "one", tmp_path / "two"
    result = synco_hub.evaluate("knn", backbone, FRACTALS, k=3, save_features=one, **QUIET)
    again = synco_hub.evaluate("knn", features=one, k=3, **QUIET)
    same(again, result)
    assert synco_hub.evaluate("knn", "no/model", features=one, k=3, **QUIET).metrics == result.metrics
    synco_hub.evaluate("knn", tmp_path / "other", FRACTALS, k=3, save_features=two, **QUIET)
    (two / "test.safetensors").replace(one / "test.safetensors")
    with pytest.raises(ValueError, match="neighbours need one model"):
        synco_hub.evaluate("knn", features=one, k=3, **QUIET)


def test_knn_keeps_no_features_of_what_it_refuses(tmp_path):
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    network.backbone.norm.bias.data[0] = torch.inf
    network.save_pretrained(tmp_path / "broken")
    image_processor(32).save_pretrained(tmp_path / "broken")
    for k, message in ((3, "first at index 0"), (31, "k=31 with 30 training images")):
        with pytest.raises(ValueError, match=message):
            synco_hub.evaluate("knn", tmp_path / "broken", FRACTALS, k=k, save_features=tmp_path / "kept", **QUIET)
    assert not (tmp_path / "kept").exists()


def test_the_bank_may_be_a_part_or_another_set(backbone):
    few = synco_hub.evaluate("knn", backbone, FRACTALS, k=1, train_fraction=0.5, **QUIET)
    assert few.training_dataset.count == 15
    other = FRACTALS.replace("train_images_per_class=6", "train_images_per_class=2")
    borrowed = synco_hub.evaluate("knn", backbone, FRACTALS, k=1, train_dataset=other, **QUIET)
    assert borrowed.training_dataset.count == 10


def test_a_set_of_test_images_beside_a_folder_of_its_name_has_no_training_images(backbone, tmp_path, monkeypatch):
    (tmp_path / "imagenet-a").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"imagenet-a has test images only: name the training images"):
        synco_hub.evaluate("knn", backbone, "imagenet-a", data_dir="imagenet-a", **QUIET)


def test_classification(classifier, tmp_path):
    model = loaded_classifier(classifier)
    result = synco_hub.evaluate("classification", classifier, FRACTALS, tmp_path / "c.json", **QUIET)
    same(result, evaluate_classification(model, split(FRACTALS, "test", model), ForwardSettings(**QUIET)))
    checked_file(result, tmp_path / "c.json")
    with pytest.raises(ValueError, match="the head has 5 classes, the data set 10"):
        synco_hub.evaluate("classification", classifier, "fractals", **QUIET)


def test_robustness_on_the_fly(classifier, tmp_path):
    pytest.importorskip("imagecorruptions")
    chosen = {"on_the_fly": True, "corruptions": "contrast", "num_images": 4}
    result = synco_hub.evaluate("robustness", classifier, FRACTALS, tmp_path / "r.json", **chosen, **QUIET)
    model, settings = loaded_classifier(classifier), RobustnessSettings(**chosen, **QUIET)
    run = RobustnessRun(model, plan_on_the_fly(model, DatasetChoice(FRACTALS), settings), settings)
    same(result, list(run.results())[-1])
    checked_file(result, tmp_path / "r.json")
    assert len(result.protocol.parameters["cells"]) == 6
    again = synco_hub.evaluate("robustness", classifier, FRACTALS, tmp_path / "r.json", **chosen, **QUIET)
    assert again.duration_s == result.duration_s  # nothing was measured
    table = resolve("synco_hub.evaluation.robustness:format_table")(result)
    assert "corrupted          severity       1       2" in table
    for wrong in ({"sets": "all"}, {"data_dir": "."}):
        with pytest.raises(ValueError, match="leave --sets and --data-dir out"):
            synco_hub.evaluate("robustness", classifier, FRACTALS, **chosen, **wrong, **QUIET)
    with pytest.raises(ValueError, match="--num-images goes with --on-the-fly"):
        synco_hub.evaluate("robustness", classifier, data_dir=tmp_path, num_images=3, **QUIET)


def test_robustness_of_published_sets(planted, tmp_path, monkeypatch, caplog):
    known = lambda name: (planted.classifier, planted.processor, planted.names)  # noqa: E731
    monkeypatch.setattr("synco_hub.hub.loading.load_classifier", known)
    monkeypatch.setitem(sys.modules, "imagenet_w", None)
    for index in (7, 8, 9, 10):
        planted.write(tmp_path / "sketch" / planted.names[index] / "a.JPEG", 7 if index > 8 else index)
    result = synco_hub.evaluate("robustness", "planted", output=tmp_path / "r.json", data_dir=tmp_path, **QUIET)
    assert result.metrics == {"imagenet_sketch_top1": 50.0}
    assert result.partial
    assert "not measured: imagenet, imagenet-v2-mf" in result.notes[0]
    assert "left out: imagenet-r is not in" in caplog.text
    for chosen, message in (
        ({"data_dir": tmp_path, "sets": "imagenet-r"}, "imagenet-r is not in"),
        ({"data_dir": tmp_path / "sketch" / planted.names[7]}, "none of the sets is in"),
        ({"data_dir": tmp_path / "nowhere"}, "no such folder"),
        ({}, "--data-dir is missing"),
        ({"data_dir": tmp_path, "sets": "imagenet-c", "corruptions": ","}, "imagenet-c is not in"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            synco_hub.evaluate("robustness", "planted", **chosen, **QUIET)


def test_out_of_distribution_of_a_pair(classifier, tmp_path):
    model = loaded_classifier(classifier)
    for number in range(4):
        path = tmp_path / "unknown" / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 36), 20 + 20 * number).convert("RGB").save(path)
    chosen = {"out_dataset": tmp_path / "unknown", "neighbour": 7}
    result = synco_hub.evaluate("ood", classifier, FRACTALS, tmp_path / "o.json", **chosen, **QUIET)
    known, bank = split(FRACTALS, "test", model), split(FRACTALS, "train", model)
    assert result.dataset.count == 4
    assert result.training_dataset.count == 15
    whole = synco_hub.evaluate(
        "ood", classifier, FRACTALS, out_dataset=FRACTALS.replace("=5", "=7"), neighbour=7, **QUIET
    )
    others = split(FRACTALS.replace("=5", "=7"), "test", model)
    same(whole, evaluate_out_of_distribution(model, DetectionSets(known, others, bank, 7), ForwardSettings(**QUIET)))
    checked_file(result, tmp_path / "o.json")
    assert (tmp_path / "o.outputs" / "bank" / "block-000000.safetensors").is_file()
    for wrong in ({}, {"out_dataset": FRACTALS, "data_dir": tmp_path}):
        with pytest.raises(ValueError, match="give --data-dir for ImageNet-O, or --in-dataset"):
            synco_hub.evaluate("ood", classifier, FRACTALS, **wrong, **QUIET)


def test_out_of_distribution_of_imagenet_o(planted, tmp_path, monkeypatch):
    known = lambda name: (planted.classifier, planted.processor, planted.names)  # noqa: E731
    monkeypatch.setattr("synco_hub.hub.loading.load_classifier", known)
    place = {name: index for index, name in enumerate(planted.names)}
    outside = next(name for name in planted.names if name not in read_class_list("imagenet_o"))
    for wnid in read_class_list("imagenet_o"):
        planted.write(tmp_path / "imagenet" / "val" / wnid / "a.JPEG", place[wnid])
    for number, wnid in enumerate(read_class_list("imagenet_o")[:40]):
        planted.write(tmp_path / "imagenet-o" / wnid / "a.jpg", place[wnid] if number % 8 == 0 else place[outside])
    result = synco_hub.evaluate("ood", "planted", data_dir=tmp_path, **QUIET)
    # 35 of 40 are below every known image, 5 tie with all of them: half of an eighth.
    assert result.metrics["auroc_msp"] == pytest.approx(100 * (0.875 + 0.125 / 2))
    assert (result.protocol.name, result.dataset.count, result.training_dataset.count) == ("ood", 40, 200)
    with pytest.raises(FileNotFoundError, match=r"unpack imagenet-o\.tar"):
        synco_hub.evaluate("ood", "planted", data_dir=tmp_path / "imagenet", **QUIET)


def test_adversarial(classifier, tmp_path):
    pytest.importorskip("torchattacks")
    model = loaded_classifier(classifier)
    chosen = {"attacks": "fgsm, pgd", "num_images": 4, "epsilon": "4/255"}
    result = synco_hub.evaluate("adversarial", classifier, FRACTALS, tmp_path / "a.json", **chosen, **QUIET)
    assert result.partial
    assert list_null_attacks(result) == []
    whole = synco_hub.evaluate("adversarial", classifier, FRACTALS, attacks="fgsm", **QUIET)
    run = AdversarialRun(
        model, split(FRACTALS, "test", model), choose_attacks("fgsm"), None, AdversarialSettings(**QUIET)
    )
    same(whole, list(run.results())[-1])
    checked_file(result, tmp_path / "a.json")
    assert len(list((tmp_path / "a.batches").glob("pgd-*/*.json"))) == 1
    again = synco_hub.evaluate("adversarial", classifier, FRACTALS, tmp_path / "a.json", **chosen, **QUIET)
    same(again, result)
    still = synco_hub.evaluate("adversarial", classifier, FRACTALS, attacks="pgd", epsilon="0", **QUIET)
    assert list_null_attacks(still) == ["pgd"]
    with pytest.raises(ValueError, match="'big' is neither a number nor a fraction"):
        synco_hub.evaluate("adversarial", classifier, FRACTALS, epsilon="big", **QUIET)


def test_retrieval(backbone, tmp_path):
    folder = tmp_path / "data" / "rparis6k"
    (folder / "jpg").mkdir(parents=True)
    for step in range(4):
        image = Image.new("RGB", (40, 56), (250 - 60 * step, 20, 10 + 60 * step))
        image.save(folder / "jpg" / f"paris_{step}.jpg", quality=100)
        image.save(folder / "jpg" / "louvre.jpg", quality=100) if step == 0 else None
    truth = {"bbx": [4.0, 4.0, 36.0, 50.0], "easy": [0], "hard": [2], "junk": [1]}
    names = [f"paris_{step}" for step in range(4)]
    content = pickle.dumps({"imlist": names, "qimlist": ["louvre"], "gnd": [truth]})
    (folder / "gnd_rparis6k.pkl").write_bytes(content)
    chosen = {"scale": [1.0], "num_workers": 0, "save_features": tmp_path / "kept", **SINGLE}
    result = synco_hub.evaluate(
        "retrieval", backbone, "rparis6k", tmp_path / "r.json", data_dir=folder.parent, **chosen
    )
    settings = RetrievalSettings(scale=[1.0], num_workers=0, **SINGLE)
    same(result, evaluate_retrieval(loaded(backbone), load_retrieval_data(folder.parent, "rparis6k"), settings))
    checked_file(result, tmp_path / "r.json")
    assert result.metrics["map_easy"] == 100.0
    with pytest.raises(ValueError, match="another measurement"):
        synco_hub.evaluate(
            "retrieval", backbone, "rparis6k", data_dir=folder.parent, **{**chosen, "crop_queries": False}
        )
    with pytest.raises(ValueError, match="--data-dir is missing"):
        synco_hub.evaluate("retrieval", backbone, "rparis6k", **SINGLE)


def test_video_segmentation(backbone, tmp_path):
    root = tmp_path / "DAVIS"
    images, masks = (root / kind / "480p" / "a" for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    for frame in range(4):
        mask = np.zeros((64, 128), dtype=np.uint8)
        mask[:, 8 * (2 + frame) : 8 * (5 + frame)] = 1
        Image.fromarray(np.array([[20, 40, 200], [220, 180, 10]], dtype=np.uint8)[mask]).save(
            images / f"{frame:05d}.jpg", quality=100, subsampling=0
        )
        write_mask(masks / f"{frame:05d}.png", mask)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("a\n")
    chosen = {"short_side": 64, "radius": 4, **SINGLE}
    result = synco_hub.evaluate("video-segmentation", backbone, output=tmp_path / "out", data_dir=root, **chosen)
    settings = VideoSegmentationSettings(**chosen)
    same(result, evaluate_video_segmentation(loaded(backbone), load_davis(root), tmp_path / "inner", settings))
    checked_file(result, tmp_path / "out" / "video-segmentation.json")
    assert len(list((tmp_path / "out" / "masks" / "a").glob("*.png"))) == 4
    same(synco_hub.evaluate("video-segmentation", backbone, data_dir=root, **chosen), result)
    with pytest.raises(ValueError, match="has no setting 'dataset'"):
        synco_hub.evaluate("video-segmentation", backbone, "fractals", data_dir=root, **chosen)


@pytest.mark.parametrize("method", ["lost", "tokencut"])
def test_discovery(backbone, tmp_path, method):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number in range(3):
        image = Image.new("RGB", (64, 48), (30, 60, 90))
        image.paste((230, 200, 20), (16, 16, 40, 40))
        image.save(root / "JPEGImages" / f"{number:06d}.jpg", quality=100)
        (root / "Annotations" / f"{number:06d}.xml").write_text(ANNOTATION.format(1, 1, 64, 48))
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000000\n000001\n000002\n")
    chosen = {"method": method, "save_boxes": tmp_path / "boxes", "figure": tmp_path / "d.png", **SINGLE}
    result = synco_hub.evaluate("discovery", backbone, output=tmp_path / "d.json", data_dir=tmp_path, **chosen)
    inner, _ = evaluate_discovery(loaded(backbone), load_voc_boxes(root), DiscoverySettings(method, **SINGLE))
    same(result, inner)
    checked_file(result, tmp_path / "d.json")
    assert (tmp_path / "boxes" / "boxes.json").is_file()
    assert Image.open(tmp_path / "d.png").size[0] > 100
    assert synco_hub.evaluate("discovery", backbone, data_dir=tmp_path, num_images=2, **SINGLE).partial


def test_efficiency(backbone, tmp_path, monkeypatch):
    asked = []

    def step(command, check):
        """Stands for `python -m trainers.step_time`, which has tests of its own."""
        asked.append([word for word in command if not word.startswith("--output=")])
        file = Path(command[-1].removeprefix("--output="))
        stated = synco_hub.evaluate("efficiency", backbone, batch_size=1, repeats=1, methods="", device="cpu")
        protocol = replace(stated.protocol, name="step_time", parameters={"batch_size": 2})
        replace(stated, metrics={"hours": 3.0}, protocol=protocol, notes=("timed",)).save(file)

    monkeypatch.setattr(subprocess, "run", step)
    chosen = {"batch_size": 2, "repeats": 1, "methods": "moby, synco-v2", "device": "cpu"}
    result = synco_hub.evaluate("efficiency", output=tmp_path / "e.json", backbone="vit-nano", **chosen)
    assert EvaluationResult.load(tmp_path / "e.json").metrics == result.metrics
    assert result.model.name == "random vit-nano"
    assert result.metrics["train_moby_hours"] == result.metrics["train_synco-v2_hours"] == 3.0
    assert result.protocol.parameters["train_moby"] == {"batch_size": 2}
    assert result.notes[-1] == "timed"
    assert asked[0][1:3] == ["-m", "trainers.step_time"]
    assert {"--method=moby", "--backbone=vit-nano", "--batch-size=2", "--steps=1"} <= set(asked[0])
    given = synco_hub.evaluate("efficiency", backbone, **{**chosen, "methods": ""})
    assert (given.model.name, given.metrics["parameters_m"] < result.metrics["parameters_m"]) == (backbone, True)
    assert given.model.weights == hash_saved_weights(Path(backbone))[1]


@pytest.mark.parametrize("protocol", EVALUATORS)
def test_every_row_names_a_function_of_the_contract_and_a_table(protocol):
    row = EVALUATORS[protocol]
    function = resolve(row.function)
    assert list(inspect.signature(function).parameters) == ["model", "data", "settings", "output"]
    assert callable(resolve(f"{function.__module__}:format_table"))
    assert set(row.data) <= {field.name for field in fields(DatasetChoice)}
    assert not set(row.data) & {field.name for field in fields(row.settings)}
    assert row.settings().device is None
    assert row.example.startswith(f"synco-hub evaluate {protocol} ")
    if row.model in (BACKBONE, CLASSIFIER):
        instead = ", or --features of an earlier measurement" if protocol == "knn" else ""
        with pytest.raises(ValueError, match=rf"--model is missing: give the model to measure{instead}\.$"):
            synco_hub.evaluate(protocol)


@pytest.mark.parametrize(
    ("protocol", "settings", "message"),
    [
        ("kn", {}, r"protocol 'kn' is unknown: use one of knn, .* Did you mean 'knn'"),
        ("linear-probe", {}, "linear-probe trains a classifier, .*synco-hub linear-probe --model MODEL"),
        ("knn", {"num_worker": 1}, r"knn has no setting 'num_worker': .*Did you mean 'num_workers'"),
        ("efficiency", {"split_seed": 1}, "efficiency has no setting 'split_seed'"),
        ("knn", {"precision": "int8"}, "precision='int8' is unknown: use one of fp32, bf16, fp16"),
        ("discovery", {"method": "dino"}, "method='dino' is unknown: use one of lost, tokencut"),
        ("discovery", {"max_side": 0}, "max_side=0 is not positive"),
        ("efficiency", {"repeats": 0}, "repeats=0 is not positive"),
        ("knn", {"k": "10"}, "k='10' is of type str: give int"),
        ("knn", {"k": True}, "k=True is of type bool: give int"),
        ("knn", {"k": [2.5]}, "k=2.5 is of type float: give int"),
        ("knn", {"batch_size": "8"}, "batch_size='8' is of type str: give int"),
        ("knn", {"train_fraction": "0.1"}, "train_fraction='0.1' is of type str: give float or None"),
        ("knn", {"dataset": 3}, "dataset=3 is of type int"),
        ("adversarial", {"attacks": ["fgsm"]}, "attacks=.'fgsm'. is of type list: give str"),
        (None, {}, "protocol None is unknown"),
    ],
)
def test_what_is_unknown_is_named_with_what_is_near(protocol, settings, message):
    with pytest.raises(ValueError, match=message):
        synco_hub.evaluate(protocol, "model", **settings)


@pytest.mark.parametrize(
    ("protocol", "settings", "message"),
    [
        ("knn", {"output": "."}, "--output .: is a folder"),
        ("knn", {"output": "FILE/k.json"}, "--output FILE/k.json: "),
        ("knn", {"save_features": "FILE/x"}, "--save-features FILE/x: "),
        ("discovery", {"figure": "boxes.gif"}, "--figure boxes.gif: does not end in .png or .pdf"),
        ("video-segmentation", {"output": "FILE"}, "--output-dir FILE: is a file"),
    ],
)
def test_a_bad_place_is_refused_before_the_model_is_loaded(protocol, settings, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("a file")
    with pytest.raises(ValueError, match=re.escape(message)):
        synco_hub.evaluate(protocol, "no-such-model", **settings)


@pytest.mark.parametrize("asked", [None, "meta"])
def test_the_device_is_the_one_asked_for_or_the_best(backbone, monkeypatch, asked):
    monkeypatch.setattr("synco_hub.features.choose_device", lambda wanted: wanted or "best")
    seen = []
    monkeypatch.setattr("synco_hub.evaluation.knn.evaluate", lambda *arguments: seen.append(arguments))
    synco_hub.evaluate("knn", backbone, FRACTALS, device=asked)
    ((model, data, settings, output),) = seen
    assert settings == KnnSettings(device=asked or "best")
    assert (model.name, data, output) == (backbone, DatasetChoice(FRACTALS), None)


def test_the_table_is_read_without_torch():
    code = (
        "import sys, synco_hub, synco_hub.protocols as p; assert p.EVALUATORS; synco_hub.DatasetChoice(); "
        "assert not {'torch', 'transformers', 'numpy', 'timm'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_what_trains_names_its_command():
    for name, command in TRAINED.items():
        with pytest.raises(ValueError, match=f"{name} trains a classifier, .*synco-hub {name} "):
            find_evaluator(name)
        assert command.startswith(f"synco-hub {name} ")


def test_a_network_in_the_place_of_its_name_is_told_what_to_do():
    with pytest.raises(ValueError, match=r"model is a Linear: give a name.* save_pretrained"):
        synco_hub.evaluate("knn", model=torch.nn.Linear(2, 2), dataset="fractals")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "8 images of 32 pixels with {} .*: give --batch-size 4, --precision bf16 or --device cpu"),
        ({"precision": "bf16", "batch_size": 1}, "1 image of 32 pixels with {} .*: give --device cpu"),
    ],
)
def test_a_batch_that_does_not_fit_says_what_would(backbone, monkeypatch, settings, line):
    def fail(self, *args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr(SynCoModel, "_check_input", fail)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=line.format(backbone)):
        synco_hub.evaluate("knn", model=backbone, dataset=FRACTALS, **{**QUIET, **settings})


def test_a_device_that_is_not_there_is_told_before_a_model_is_looked_for():
    with pytest.raises(ValueError, match="--device cuda:77: cannot be used here"):
        synco_hub.evaluate("knn", model="organisation/no-such-model", dataset=FRACTALS, device="cuda:77")
