import pytest
import torch

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.detection.classifier_outputs import ClassifierOutputs, Outputs
from synco_hub.evaluation.out_of_distribution import (
    DetectionSets,
    confidence_scores,
    evaluate_out_of_distribution,
)
from synco_hub.features import ExtractionSettings
from synco_hub.models import SynCoConfig, SynCoForImageClassification

QUIET = ExtractionSettings(batch_size=8, progress=False)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano")
    config.num_labels = 10
    return SynCoForImageClassification(config).eval()


@pytest.fixture
def split(tmp_path):
    def make(name, which="test"):
        images = load_dataset(name, which, cache_dir=tmp_path)
        return EvaluationDataset(images, EvaluationTransform(32))

    return make


def test_the_same_images_on_both_sides_are_chance(classifier, split):
    data = split("fractals:test_images_per_class=3")
    bank = split("fractals:train_images_per_class=2", "train")
    result = evaluate_out_of_distribution(classifier, DetectionSets(data, data, bank, neighbour=5), "mine", QUIET)
    for name in ("msp", "energy", "knn"):
        assert result.metrics[f"auroc_{name}"] == pytest.approx(50.0)
        assert result.metrics[f"tied_share_{name}"] == 100.0
    assert result.protocol.name == "ood_pair"
    assert result.training_dataset.count == result.dataset.count == 30


def test_outputs_are_kept_and_all_are_measured_too(classifier, split):
    known, unknown = (
        split("fractals:test_images_per_class=3"),
        split("fractals:num_classes=20,test_images_per_class=1"),
    )
    sets = DetectionSets(known, unknown, columns=torch.tensor([1, 4, 7]), protocol="ood")
    result = evaluate_out_of_distribution(classifier, sets, "mine", QUIET)
    assert {name.split("_", 1)[1] for name in result.metrics if name.startswith("auroc")} == {
        "msp",
        "energy",
        "msp_all_classes",
        "energy_all_classes",
    }
    assert result.metrics["auroc_msp"] != result.metrics["auroc_msp_all_classes"]
    assert result.protocol.parameters["kept outputs"] == [1, 4, 7]
    assert any("no neighbour score" in note for note in result.notes)


def test_a_run_killed_between_sets_goes_on_to_the_same_numbers(classifier, split, tmp_path, monkeypatch):
    sets = DetectionSets(
        split("fractals:test_images_per_class=3"),
        split("fractals:num_classes=20,test_images_per_class=1"),
        split("fractals:train_images_per_class=2", "train"),
        neighbour=5,
    )
    whole = evaluate_out_of_distribution(classifier, sets, "mine", QUIET)
    real, asked = ClassifierOutputs._forward, []

    def killed(self, pixels, wanted):
        asked.append(len(pixels))
        if sum(asked) > 30 + 20:  # the bank comes after both sets
            raise KeyboardInterrupt
        return real(self, pixels, wanted)

    monkeypatch.setattr(ClassifierOutputs, "_forward", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_out_of_distribution(classifier, sets, "mine", QUIET, tmp_path / "kept")
    monkeypatch.setattr(ClassifierOutputs, "_forward", lambda *arguments: asked.append(0) or real(*arguments))
    del asked[:]
    again = evaluate_out_of_distribution(classifier, sets, "mine", QUIET, tmp_path / "kept")
    assert len(asked) == 3  # the twenty images of the bank, eight at a time
    assert again.metrics == whole.metrics
    assert again.dataset == whole.dataset
    # Other unknown images, another neighbour: what is there of the others is taken.
    del asked[:]
    other = DetectionSets(sets.known, split("fractals:num_classes=15,test_images_per_class=1"), sets.bank, 3)
    evaluate_out_of_distribution(classifier, other, "mine", QUIET, tmp_path / "kept")
    assert len(asked) == 2
    with pytest.raises(ValueError, match=r"another measurement \(batch size: 8 there, 4 now\)"):
        evaluate_out_of_distribution(
            classifier, sets, "mine", ExtractionSettings(4, progress=False), tmp_path / "kept"
        )


def test_a_neighbour_that_is_none_is_refused_before_the_first_image(split):
    class Untouched(torch.nn.Linear):
        def forward(self, pixel_values):
            pytest.fail("measured")

    data = split("fractals:test_images_per_class=1")
    for neighbour in (0, 11):
        with pytest.raises(ValueError, match=f"neighbour {neighbour} of 10 known images"):
            evaluate_out_of_distribution(Untouched(1, 1), DetectionSets(data, data, data, neighbour), "mine", QUIET)


def test_left_out_logits_play_no_part():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator)
    other = logits.clone()
    other[:, [0, 3]] += 50 * torch.rand(6, 2, generator=generator)
    columns = torch.tensor([1, 2, 4])
    first, second = (
        confidence_scores(Outputs(values, torch.empty(0, 0)), Outputs(values, torch.empty(0, 0)), None, columns, 1)
        for values in (logits, other)
    )
    assert torch.equal(first["msp"][0], second["msp"][0])
    assert torch.equal(first["energy"][0], second["energy"][0])
    assert not torch.equal(first["msp_all_classes"][0], second["msp_all_classes"][0])


def test_nan_is_refused(split):
    class Broken(torch.nn.Linear):
        def forward(self, pixel_values):
            return Outputs(torch.full((len(pixel_values), 10), torch.nan), torch.empty(0, 0))

    data = split("fractals:test_images_per_class=1")
    with pytest.raises(ValueError, match="logits of 10 of 10 images are NaN"):
        evaluate_out_of_distribution(Broken(1, 1), DetectionSets(data, data), "mine", QUIET)
