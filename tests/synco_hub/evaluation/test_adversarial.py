import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation import adversarial
from synco_hub.evaluation.adversarial import AdversarialRun, AttackedModel, check_same_accuracy
from synco_hub.evaluation.attacks.attack_settings import ATTACKS, chosen_attacks, with_epsilon
from synco_hub.evaluation.attacks.attacks import AttackedBatch
from synco_hub.evaluation.attacks.pixel_classifier import PixelClassifier
from synco_hub.features import ExtractionSettings

pytest.importorskip("torchattacks")
QUIET = ExtractionSettings(batch_size=4, progress=False)


class Projector(torch.nn.Module):
    """Linear on pixels; a huge scale saturates the softmax."""

    def __init__(self, classes=5, scale=1.0):
        super().__init__()
        self.layer = torch.nn.Linear(3 * 32 * 32, classes)
        self.scale = scale

    def forward(self, pixel_values):
        return ImageClassifierOutput(logits=self.layer(pixel_values.flatten(1)) * self.scale)


@pytest.fixture
def dataset(tmp_path):
    images = load_dataset("fractals:num_classes=5,test_images_per_class=2", "test", cache_dir=tmp_path / "cache")
    return EvaluationDataset(images, EvaluationTransform(32))


def model_for(dataset, **settings):
    torch.manual_seed(0)
    return AttackedModel(Projector(**settings), tuple(dataset.images.class_names), "mine")


def measured(*arguments, **settings):
    run = AdversarialRun(*arguments, **settings)
    return run, list(run.results())


def without_time(result):
    numbers = {name: value for name, value in result.metrics.items() if not name.startswith("seconds")}
    return numbers, result.protocol, result.notes


def test_a_killed_run_goes_on_to_the_same_numbers(dataset, tmp_path, monkeypatch):
    attacks, model = chosen_attacks("fgsm,pgd,cw,tifgsm,one_pixel"), model_for(dataset)
    _, whole = measured(model, dataset, attacks, tmp_path / "whole", QUIET, seed=2)
    assert [result.partial for result in whole] == [True] * 5 + [False]
    real, calls = adversarial.attack_batch, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(adversarial, "attack_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        measured(model, dataset, attacks, tmp_path / "cut", QUIET, seed=2)
    _, rest = measured(model, dataset, attacks, tmp_path / "cut", QUIET, seed=2)
    assert len(calls) == 5 + 5 * 3 - 4  # four batches of three an attack were kept
    assert without_time(rest[-1]) == without_time(whole[-1])
    with pytest.raises(ValueError, match=r"another measurement \(seed: 2 there, 3 now\)"):
        AdversarialRun(model, dataset, attacks, tmp_path / "cut", QUIET, seed=3)


def test_clean_accuracy_is_that_of_a_loop_and_the_result_says_everything(dataset, tmp_path):
    model = model_for(dataset)
    _, (clean, result) = measured(model, dataset, chosen_attacks("pgd"), tmp_path / "s", QUIET, subset=range(10))
    items = [dataset[index] for index in range(10)]
    right = [int(model.classifier(item["pixel_values"][None]).logits.argmax()) == item["label"] for item in items]
    assert clean.metrics == {"top1_clean": 100 * sum(right) / 10}
    assert result.metrics["linf_max_pgd"] == pytest.approx(8 / 255, abs=1e-6)
    assert result.metrics["forwards_per_image_pgd"] == 10
    assert result.protocol.name == "adversarial"
    assert result.protocol.parameters["indices"] == list(range(10))
    assert result.partial
    assert result.protocol.parameters["attacks"]["pgd"]["parameters"]["steps"] == 10
    # The paper's numbers only stand beside the paper's rows.
    weak = {"pgd": with_epsilon(ATTACKS["pgd"], 1 / 255)}
    _, (_, other) = measured(model, dataset, weak, tmp_path / "s", QUIET, subset=range(10))
    assert other.protocol.name == "adversarial_own_settings"
    assert other.metrics["linf_max_pgd"] == pytest.approx(1 / 255, abs=1e-6)


def test_attacks_that_change_nothing_are_named_and_gradients_must_not_vanish(dataset, tmp_path):
    saturated = model_for(dataset, scale=1e6)
    run = AdversarialRun(saturated, dataset, chosen_attacks("fgsm"), tmp_path / "a", QUIET)
    labels = torch.tensor(
        [int(saturated.classifier(dataset[i]["pixel_values"][None]).logits.argmax()) for i in range(10)]
    )
    run.targets = labels  # right everywhere, and surer than floats can say: the loss is flat
    with pytest.raises(ValueError, match="the gradient of the loss is zero on every one"):
        list(run.results())
    still = {"pgd": with_epsilon(ATTACKS["pgd"], 0.0)}
    run, (_, result) = measured(model_for(dataset), dataset, still, tmp_path / "b", QUIET)
    assert run.null_attacks() == ["pgd"]
    assert "top1_pgd" not in result.metrics
    assert "pgd is null: it left all 10 inputs as they were after 100 images forwarded" in result.notes[0]


def test_a_wrapper_that_is_another_network_is_refused(dataset, tmp_path, monkeypatch):
    model = model_for(dataset)
    predicted = [int(model.classifier(dataset[index]["pixel_values"][None]).logits.argmax()) for index in range(10)]
    dataset.images.labels[:] = predicted
    monkeypatch.setattr(PixelClassifier, "forward", lambda self, images: -self.plain_logits(images))
    with pytest.raises(ValueError, match="plain classifier is right on 10 images, the wrapped one on"):
        list(AdversarialRun(model, dataset, chosen_attacks("fgsm"), tmp_path / "s", QUIET).results())
    right, wrong = [AttackedBatch((0, 1), (True, True))], [AttackedBatch((0, 1), (True, False))]
    check_same_accuracy(right, right)
    with pytest.raises(ValueError, match="plain classifier is right on 2 images, the wrapped one on 1"):
        check_same_accuracy(right, wrong)


def test_unreadable_images_are_left_out_also_when_resumed(tmp_path):
    generator = np.random.default_rng(0)
    for index in range(10):
        path = tmp_path / "data" / "test" / f"c{index % 5}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    (tmp_path / "data" / "test" / "c1" / "1.png").write_bytes(b"broken")
    images = load_dataset(tmp_path / "data", "test")
    dataset = EvaluationDataset(images, EvaluationTransform(32))
    settings = replace(QUIET, max_bad_fraction=0.2)
    results = [
        measured(model_for(dataset), dataset, chosen_attacks("pgd"), tmp_path / "s", settings)[1][-1] for _ in range(2)
    ]
    assert results[0].dataset.count == 9
    assert results[0].skipped_files == results[1].skipped_files == ("c1/1.png",)
    assert without_time(results[0]) == without_time(results[1])
    kept = json.loads(next((tmp_path / "s").glob("pgd-*/batch-000000.json")).read_text())
    assert len(kept["indices"]) == 3


def test_data_that_cannot_be_attacked_is_refused(dataset, tmp_path):
    model = replace(model_for(dataset, classes=3), class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="the head has 3 classes, the data set 5"):
        AdversarialRun(model, dataset, chosen_attacks("fgsm"), tmp_path / "a", QUIET)
    dataset.images.labels[2] = -1
    with pytest.raises(ValueError, match="an attack needs a class for every image"):
        AdversarialRun(model_for(dataset), dataset, chosen_attacks("fgsm"), tmp_path / "b", QUIET)
