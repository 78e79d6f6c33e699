import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation import adversarial
from synco_hub.evaluation.adversarial import (
    AdversarialRun,
    AttackedBatches,
    accuracy,
    attack_facts,
    attack_metrics,
    check_classes,
    check_same_accuracy,
    describe_missing_attacks,
    describe_unchanged,
    is_null,
    list_null_attacks,
)
from synco_hub.evaluation.attacks import ATTACKS, AttackedBatch, PixelClassifier, choose_attacks, replace_epsilon
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.resume import ResumableFolder
from synco_hub.settings import AdversarialSettings

MOVED = [
    AttackedBatch((0, 1, 2), (True, False, False), (0.1, 0.2, 0.0), (1.0, 2.0, 0.0), 30, 0.5),
    AttackedBatch((3,), (True,), (0.3,), (3.0,), 10, 0.3),
]
STILL = [AttackedBatch((0, 1), (True, True), (0.0, 9e-7), (0.0, 1e-6), 400, 1.0), AttackedBatch((), ())]


def test_numbers_of_an_attack():
    assert accuracy(MOVED) == 50.0
    assert attack_metrics("pgd", ATTACKS["pgd"], MOVED) == {
        "top1_pgd": 50.0,
        "linf_mean_pgd": pytest.approx(0.15),
        "linf_max_pgd": 0.3,
        "l2_mean_pgd": 1.5,
        "l2_max_pgd": 3.0,
        "forwards_per_image_pgd": 10.0,
        "seconds_per_image_pgd": pytest.approx(0.2),
    }
    with pytest.raises(ValueError, match="no image could be read"):
        accuracy([AttackedBatch((), ())])


def test_an_attack_that_did_nothing_has_no_accuracy_but_its_forwards():
    assert is_null(ATTACKS["cw"], STILL)
    assert not is_null(ATTACKS["cw"], MOVED)
    metrics = attack_metrics("cw", ATTACKS["cw"], STILL)
    assert "top1_cw" not in metrics
    assert metrics["forwards_per_image_cw"] == 200.0
    facts = attack_facts(ATTACKS["cw"], STILL)
    assert (facts["null"], facts["forwards"], facts["changed images"]) == (True, 400, 0)
    assert attack_facts(ATTACKS["pgd"], MOVED)["changed images"] == 3
    assert "steps" not in attack_facts(ATTACKS["pgd"], MOVED)
    assert "null" not in attack_facts(ATTACKS["pgd"], None)


@pytest.mark.parametrize("name", ["square", "autoattack"])
def test_an_attack_that_returns_what_it_cannot_fool_was_measured_where_it_fooled_none(name):
    attack = ATTACKS[name]
    still = [AttackedBatch((0, 1, 2), (True, False, False), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 400, 1.0)]
    assert not is_null(attack, still)
    assert attack_metrics(name, attack, still)[f"top1_{name}"] == pytest.approx(100 / 3)
    assert attack_facts(attack, still)["null"] is False
    assert f"{name} fooled none of the images, after 400 images forwarded" in describe_unchanged(
        name, attack, still, still
    )
    nothing_to_attack = [AttackedBatch((0, 1), (False, False), (0.0, 0.0), (0.0, 0.0), 2, 1.0)]
    assert is_null(attack, nothing_to_attack)
    assert is_null(replace_epsilon(attack, 0.0), still)


def test_autoattack_needs_four_classes_and_says_what_to_give_instead():
    check_classes(ATTACKS, 4)
    others = "fgsm,pgd,cw,square,tifgsm,one_pixel"
    with pytest.raises(ValueError, match=rf"AutoAttack on 3 classes: .* \(--attacks {others}\)"):
        check_classes(ATTACKS, 3)
    check_classes(choose_attacks(others), 2)


def test_notes_say_why():
    pgd, cw, square = (ATTACKS[name] for name in ("pgd", "cw", "square"))
    assert "left all 2 inputs as they were after 400 images forwarded; no" in describe_unchanged(
        "pgd", pgd, STILL, STILL
    )
    assert describe_unchanged("pgd", pgd, MOVED, MOVED) == ""
    assert "early stop can do that" in describe_unchanged("cw", cw, STILL, STILL)
    wrong = [AttackedBatch((0, 1), (False, False), (0.0, 0.0), (0.0, 0.0), 2, 1.0)]
    assert "no clean image is classified correctly" in describe_unchanged("square", square, wrong, wrong)
    assert describe_missing_attacks(ATTACKS, list(ATTACKS)) == []
    assert describe_missing_attacks({"fgsm": ATTACKS["fgsm"], "pgd": ATTACKS["pgd"]}, ["fgsm"]) == [
        "not finished: pgd"
    ]


QUIET = AdversarialSettings(batch_size=4, num_workers=0, progress=False)


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def files(tmp_path):
    for index in range(10):
        write(tmp_path / "data" / "test" / "c" / f"{index}.bmp", index)
    return EvaluationDataset(load_dataset(tmp_path / "data", "test"), EvaluationTransform(32))


def recorder(seen):
    def measure(images, indices, number):
        seen.append((number, indices.tolist()))
        assert len(images) == len(indices)
        return AttackedBatch(tuple(indices.tolist()), tuple(index % 2 == 0 for index in indices.tolist()))

    return measure


def measured_batches(files, tmp_path, seen, kind="fgsm", settings=QUIET, facts=None):
    batches = AttackedBatches(files, ResumableFolder(tmp_path / "kept", facts or {"seed": 1}), settings)
    return batches, batches.measured("fgsm", kind, files, recorder(seen))


def test_only_batches_whose_images_changed_are_measured_again(files, tmp_path):
    seen = []
    _, first = measured_batches(files, tmp_path, seen)
    assert seen == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7]), (2, [8, 9])]
    assert [batch.indices for batch in first] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9)]
    assert measured_batches(files, tmp_path, seen)[1] == first
    assert len(seen) == 3
    write(tmp_path / "data" / "test" / "c" / "5.bmp", 99)  # the same name, size and format
    assert measured_batches(files, tmp_path, seen)[1] == first
    assert seen[3:] == [(1, [4, 5, 6, 7])]
    measured_batches(files, tmp_path, seen, kind="pgd")
    assert len(seen) == 7
    with pytest.raises(ValueError, match=r"another measurement \(seed: 1 there, 2 now\)"):
        measured_batches(files, tmp_path, seen, facts={"seed": 2})


def test_unreadable_images_are_in_no_batch_and_known_again(files, tmp_path):
    for index in (2, 8, 9):
        (tmp_path / "data" / "test" / "c" / f"{index}.bmp").write_bytes(b"broken")
    lenient, seen = replace(QUIET, max_bad_fraction=0.5), []
    for _ in range(2):
        batches, found = measured_batches(files, tmp_path, seen, settings=lenient)
        assert [batch.indices for batch in found] == [(0, 1, 3), (4, 5, 6, 7), ()]
        assert batches.ledger.names() == ["c/2.bmp", "c/8.bmp", "c/9.bmp"]
    assert len(seen) == 2
    with pytest.raises(ValueError, match="3 of 10 images cannot be read"):
        measured_batches(files, tmp_path, seen, settings=replace(QUIET, max_bad_fraction=0.2))


def test_a_damaged_batch_is_named(files, tmp_path):
    measured_batches(files, tmp_path, [])
    file = tmp_path / "kept" / "fgsm" / "batch-000001.json"
    assert json.loads(file.read_text())["indices"] == [4, 5, 6, 7]
    file.write_text('{"correct": [tr')
    with pytest.raises(ValueError, match=r"batch-000001\.json.* is damaged .* delete it"):
        measured_batches(files, tmp_path, [])


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
    return EvaluatedModel(Projector(**settings), None, "mine", tuple(dataset.images.class_names))


def attacked(*arguments, **settings):
    pytest.importorskip("torchattacks")
    run = AdversarialRun(*arguments, **settings)
    return run, list(run.results())


def without_time(result):
    numbers = {name: value for name, value in result.metrics.items() if not name.startswith("seconds")}
    return numbers, result.protocol, result.notes


def test_a_killed_run_goes_on_to_the_same_numbers(dataset, tmp_path, monkeypatch):
    attacks, model = choose_attacks("fgsm,pgd,cw,tifgsm,one_pixel"), model_for(dataset)
    _, whole = attacked(model, dataset, attacks, tmp_path / "whole", replace(QUIET, seed=2))
    assert [result.partial for result in whole] == [True] * 5 + [False]
    real, calls = adversarial.attack_batch, []

    def killed(*arguments):
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(adversarial, "attack_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        attacked(model, dataset, attacks, tmp_path / "cut", replace(QUIET, seed=2))
    _, rest = attacked(model, dataset, attacks, tmp_path / "cut", replace(QUIET, seed=2))
    assert len(calls) == 5 + 5 * 3 - 4  # four batches of three an attack were kept
    assert without_time(rest[-1]) == without_time(whole[-1])
    with pytest.raises(ValueError, match=r"another measurement \(seed: 2 there, 3 now\)"):
        AdversarialRun(model, dataset, attacks, tmp_path / "cut", replace(QUIET, seed=3))


def test_clean_accuracy_is_that_of_a_loop_and_the_result_says_everything(dataset, tmp_path):
    model = model_for(dataset)
    _, (clean, result) = attacked(
        model,
        dataset,
        choose_attacks("pgd"),
        tmp_path / "s",
        QUIET,
        subset=range(10),
    )
    items = [dataset[index] for index in range(10)]
    right = [int(model.network(item["pixel_values"][None]).logits.argmax()) == item["label"] for item in items]
    assert clean.metrics == {"top1_clean": 100 * sum(right) / 10}
    assert result.metrics["linf_max_pgd"] == pytest.approx(8 / 255, abs=1e-6)
    assert result.metrics["forwards_per_image_pgd"] == 10
    assert result.protocol.name == "adversarial"
    assert result.protocol.parameters["indices"] == list(range(10))
    assert result.partial
    assert result.protocol.parameters["attacks"]["pgd"]["parameters"]["steps"] == 10
    # The paper's numbers only stand beside the paper's rows.
    weak = {"pgd": replace_epsilon(ATTACKS["pgd"], 1 / 255)}
    _, (_, other) = attacked(model, dataset, weak, tmp_path / "s", QUIET, subset=range(10))
    assert other.protocol.name == "adversarial_own_settings"
    assert other.metrics["linf_max_pgd"] == pytest.approx(1 / 255, abs=1e-6)


def test_attacks_that_change_nothing_are_named_and_gradients_must_not_vanish(dataset, tmp_path):
    pytest.importorskip("torchattacks")
    saturated = model_for(dataset, scale=1e6)
    run = AdversarialRun(saturated, dataset, choose_attacks("fgsm"), tmp_path / "a", QUIET)
    labels = torch.tensor(
        [int(saturated.network(dataset[i]["pixel_values"][None]).logits.argmax()) for i in range(10)]
    )
    run.targets = labels  # right everywhere, and surer than floats can say: the loss is flat
    with pytest.raises(ValueError, match="the gradient of the loss is zero on every one"):
        list(run.results())
    still = {"pgd": replace_epsilon(ATTACKS["pgd"], 0.0)}
    run, (_, result) = attacked(model_for(dataset), dataset, still, tmp_path / "b", QUIET)
    assert list_null_attacks(result) == ["pgd"]
    assert "top1_pgd" not in result.metrics
    assert "pgd is null: it left all 10 inputs as they were after 100 images forwarded" in result.notes[0]


def test_a_wrapper_that_is_another_network_is_refused(dataset, tmp_path, monkeypatch):
    model = model_for(dataset)
    predicted = [int(model.network(dataset[index]["pixel_values"][None]).logits.argmax()) for index in range(10)]
    dataset.images.labels[:] = predicted
    monkeypatch.setattr(PixelClassifier, "forward", lambda self, images: -self.plain_logits(images))
    with pytest.raises(ValueError, match="plain classifier is right on 10 images, the wrapped one on"):
        list(AdversarialRun(model, dataset, choose_attacks("fgsm"), tmp_path / "s", QUIET).results())
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
        attacked(
            model_for(dataset),
            dataset,
            choose_attacks("pgd"),
            tmp_path / "s",
            settings,
        )[1][-1]
        for _ in range(2)
    ]
    assert results[0].dataset.count == 9
    assert results[0].skipped_files == results[1].skipped_files == ("c1/1.png",)
    assert without_time(results[0]) == without_time(results[1])
    kept = json.loads(next((tmp_path / "s").glob("pgd-*/batch-000000.json")).read_text())
    assert len(kept["indices"]) == 3


def test_data_that_cannot_be_attacked_is_refused(dataset, tmp_path):
    model = replace(model_for(dataset, classes=3), class_names=("a", "b", "c"))
    with pytest.raises(ValueError, match="the head has 3 classes, the data set 5"):
        AdversarialRun(model, dataset, choose_attacks("fgsm"), tmp_path / "a", QUIET)
    dataset.images.labels[2] = -1
    with pytest.raises(ValueError, match="an attack needs a class for every image"):
        AdversarialRun(
            model_for(dataset),
            dataset,
            choose_attacks("fgsm"),
            tmp_path / "b",
            QUIET,
        )
