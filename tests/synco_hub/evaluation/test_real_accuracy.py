"""Accuracy on ImageNet-ReaL by every protocol that classifies, against loops over images and timm's list."""

import json
import math

import numpy as np
import pytest
import torch
from data_trees.original import imagenet_with_official_names
from transformers import AutoImageProcessor

import synco_hub
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.loading import load_dataset
from synco_hub.evaluation.classification import ClassificationScores
from synco_hub.evaluation.logistic import fit
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from synco_hub.settings import DatasetChoice

QUIET = {"num_workers": 0, "progress": False, "device": "cpu"}
WNIDS = read_class_list("imagenet_1k")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = imagenet_with_official_names(tmp_path_factory.mktemp("imagenet"))
    # One image of a right class that cannot be read, and does not count.
    [damaged] = (tree.root / "val").rglob("ILSVRC2012_val_00000009.JPEG")
    damaged.write_bytes(b"cut off")
    return tree


def choice(tree):
    return DatasetChoice("imagenet-1k", data_dir=str(tree.root))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    path = tmp_path_factory.mktemp("backbone")
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano", depth=1)).save_pretrained(path)
    image_processor(32).save_pretrained(path)
    return path


def share_right(tree, guesses):
    """In percent, one image after the other; `guesses` by file name."""
    right = [guesses[name] in labels for name, labels in tree.real.items() if labels and name in guesses]
    return 100 * sum(right) / len(right), len(right)


def check(result, tree, guesses, metric):
    expected, count = share_right(tree, guesses)
    assert 0 < count < len(guesses)
    assert result.metrics[metric] == pytest.approx(expected)
    share = expected / 100
    assert result.standard_errors[metric] == pytest.approx(100 * math.sqrt(share * (1 - share) / count))
    blank = sum(not labels for labels in tree.real.values())
    assert f"ReaL: {blank} of 13 images have no right class in it and do not count" in result.notes


def features(backbone, tree, tmp_path):
    """Vectors and labels of the training images, vectors of the validation images by file name."""
    table = synco_hub.Embeddings.read(
        synco_hub.embed(backbone, choice(tree), tmp_path / "e.parquet", max_bad_fraction=0.5, **QUIET)
    )
    train = np.array([split == "train" for split in table.splits])
    names = [name.rsplit("/", 1)[-1] for name in table.file_names]
    asked = {name: vector for name, vector, own in zip(names, table.vectors, train, strict=True) if not own}
    return table.vectors[train].astype(np.float64), np.array(table.labels)[train], asked


def test_neighbours(backbone, tree, tmp_path):
    kept = tmp_path / "kept"
    settings = {"k": [1, 3], "max_bad_fraction": 0.5, **QUIET}
    result = synco_hub.evaluate("knn", backbone, choice(tree), save_features=str(kept), **settings)
    bank, labels, asked = features(backbone, tree, tmp_path)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    guesses = {name: int(labels[np.argmax(bank @ vector)]) for name, vector in asked.items()}
    check(result, tree, guesses, "top1_real_k1")
    again = synco_hub.evaluate("knn", features=str(kept), k=[1, 3], progress=False)
    assert (again.metrics, again.notes, again.standard_errors) == (
        result.metrics,
        result.notes,
        result.standard_errors,
    )


def test_features_that_an_earlier_version_kept_say_that_they_lack_it(backbone, tree, tmp_path):
    from synco_hub.features import Features

    kept = tmp_path / "kept"
    settings = {"k": [1], "max_bad_fraction": 0.5, **QUIET}
    new = synco_hub.evaluate("knn", backbone, choice(tree), save_features=str(kept), **settings)
    for file in kept.iterdir():
        stored = Features.load(file)
        facts = json.loads(stored.facts["measured_split"])
        del facts["real"]
        stored.facts["measured_split"] = json.dumps(facts)
        stored.save(file)
    old = synco_hub.evaluate("knn", features=str(kept), k=[1], progress=False)
    assert old.metrics == {"top1_k1": new.metrics["top1_k1"]}
    assert "compute it again with --save-features" in old.notes[-1]


def test_logistic_regression(backbone, tree, tmp_path):
    result = synco_hub.evaluate("logistic", backbone, choice(tree), max_bad_fraction=0.5, strength=[10.0], **QUIET)
    bank, labels, asked = features(backbone, tree, tmp_path)
    fitted, *_ = fit(bank, labels, [10.0])
    guesses = {
        name: int(fitted.log_probabilities(vector[None].astype(np.float64), 1000).argmax())
        for name, vector in asked.items()
    }
    check(result, tree, guesses, "top1_real")


def test_a_classifier_whose_classes_are_in_another_order(tree, tmp_path):
    torch.manual_seed(1)
    order = np.random.default_rng(0).permutation(1000)
    config = SynCoConfig("vit-nano", depth=1, id2label={k: WNIDS[place] for k, place in enumerate(order)})
    network = SynCoForImageClassification(config).eval()
    present = {labels[0] for labels in tree.real.values() if labels}
    with torch.no_grad():  # so that some guesses are right
        network.classifier.bias[[k for k, place in enumerate(order) if place in present]] += 3
    network.save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    result = synco_hub.evaluate("classification", tmp_path, choice(tree), max_bad_fraction=0.5, **QUIET)
    processor, guesses = AutoImageProcessor.from_pretrained(tmp_path), {}
    images = load_dataset(choice(tree), "test", image_size=32)
    for index in range(len(images)):
        name = images.name(index).rsplit("/", 1)[-1]
        if name != "ILSVRC2012_val_00000009.JPEG":
            logits = network(**processor(images.load_image(index), return_tensors="pt")).logits
            guesses[name] = int(order[int(logits.argmax())])
    check(result, tree, guesses, "top1_real")


def test_names_that_are_not_official_give_a_sentence_and_no_number(backbone, tree, tmp_path):
    for file in [*(tree.root / "train").rglob("*.JPEG"), *(tree.root / "val").rglob("*.JPEG")]:
        split, wnid = file.relative_to(tree.root).parts[:2]
        copy = tmp_path / split / wnid / f"{file.stem[-5:]}.JPEG"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    own = DatasetChoice("imagenet-1k", data_dir=str(tmp_path))
    result = synco_hub.evaluate("knn", backbone, own, k=[1], max_bad_fraction=0.5, **QUIET)
    assert set(result.metrics) == {"top1_k1"}
    assert "13 of 13" in result.notes[-1] or "14 of 14" in result.notes[-1]


def test_ties_go_to_the_lowest_class_and_batches_give_the_whole():
    scores = ClassificationScores(4, False)
    equal = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 5]])
    scores.add(equal, torch.tensor([0, 1, 3]), torch.tensor([[1, -1], [3, 1], [-1, -1]]))
    other = ClassificationScores(4, False)
    other.add(equal[:1], torch.tensor([0]), torch.tensor([[0, 2]]))
    scores.take_all_of(other)
    assert scores.metrics()["top1_real"] == pytest.approx(200 / 3)
    assert scores.metrics()["top1"] == 100
    assert scores.standard_errors()["top1_real"] == pytest.approx(100 * math.sqrt(2 / 9 / 3))
    none = ClassificationScores(4, False)
    none.add(equal, torch.tensor([0, 1, 3]), torch.full((3, 2), -1))
    assert "top1_real" not in none.metrics()
