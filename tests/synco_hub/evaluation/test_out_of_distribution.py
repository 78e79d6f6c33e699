from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation import out_of_distribution
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.out_of_distribution import (
    FEATURES,
    LOGITS,
    ClassifierOutputs,
    DetectionSets,
    Outputs,
    evaluate_out_of_distribution,
    score_both,
)
from synco_hub.evaluation.resume import ResumableFolder
from synco_hub.models import SynCoConfig, SynCoForImageClassification
from synco_hub.settings import ForwardSettings

QUIET = ForwardSettings(batch_size=8, num_workers=0, progress=False)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano")
    config.num_labels = 10
    return EvaluatedModel(SynCoForImageClassification(config).eval(), None, "mine")


@pytest.fixture
def split(tmp_path):
    def make(name, which="test"):
        images = load_dataset(name, which, cache_dir=tmp_path)
        return EvaluationDataset(images, EvaluationTransform(32))

    return make


def test_the_same_images_on_both_sides_are_chance(classifier, split):
    data = split("fractals:test_images_per_class=3")
    bank = split("fractals:train_images_per_class=2", "train")
    result = evaluate_out_of_distribution(classifier, DetectionSets(data, data, bank, neighbour=5), QUIET)
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
    result = evaluate_out_of_distribution(classifier, sets, QUIET)
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
    whole = evaluate_out_of_distribution(classifier, sets, QUIET)
    real, asked = ClassifierOutputs._forward, []

    def killed(self, pixels, wanted):
        asked.append(len(pixels))
        if sum(asked) > 30 + 20:  # the bank comes after both sets
            raise KeyboardInterrupt
        return real(self, pixels, wanted)

    monkeypatch.setattr(ClassifierOutputs, "_forward", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_out_of_distribution(classifier, sets, QUIET, tmp_path / "kept")
    monkeypatch.setattr(ClassifierOutputs, "_forward", lambda *arguments: asked.append(0) or real(*arguments))
    del asked[:]
    again = evaluate_out_of_distribution(classifier, sets, QUIET, tmp_path / "kept")
    assert len(asked) == 3  # the twenty images of the bank, eight at a time
    assert again.metrics == whole.metrics
    assert again.dataset == whole.dataset
    # Other unknown images, another neighbour: what is there of the others is taken.
    del asked[:]
    other = DetectionSets(sets.known, split("fractals:num_classes=15,test_images_per_class=1"), sets.bank, 3)
    evaluate_out_of_distribution(classifier, other, QUIET, tmp_path / "kept")
    assert len(asked) == 2
    with pytest.raises(ValueError, match=r"another measurement \(batch size: 8 there, 4 now\)"):
        evaluate_out_of_distribution(classifier, sets, BY_FOUR, tmp_path / "kept")


def test_a_neighbour_that_is_none_is_refused_before_the_first_image(split):
    class Untouched(torch.nn.Linear):
        def forward(self, pixel_values):
            pytest.fail("measured")

    data, model = split("fractals:test_images_per_class=1"), EvaluatedModel(Untouched(1, 1), None, "mine")
    for neighbour in (0, 11):
        with pytest.raises(ValueError, match=f"neighbour {neighbour} of 10 known images"):
            evaluate_out_of_distribution(model, DetectionSets(data, data, data, neighbour), QUIET)


def test_left_out_logits_play_no_part():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator)
    other = logits.clone()
    other[:, [0, 3]] += 50 * torch.rand(6, 2, generator=generator)
    columns = torch.tensor([1, 2, 4])
    first, second = (
        score_both(Outputs(values, torch.empty(0, 0)), Outputs(values, torch.empty(0, 0)), None, columns, 1)
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
        evaluate_out_of_distribution(EvaluatedModel(Broken(1, 1), None, "mine"), DetectionSets(data, data), QUIET)


BY_FOUR = ForwardSettings(batch_size=4, num_workers=0, progress=False)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1, num_labels=3)).eval()


def kept(tmp_path):
    return ResumableFolder(tmp_path / "kept", {"weights": "x"})


def write(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Eighteen images: three blocks of two batches, the last of two images."""
    monkeypatch.setattr(out_of_distribution, "BLOCK", 7)
    for index in range(18):
        write(tmp_path / "data" / "test" / "c" / f"{index:02d}.bmp", index)
    return EvaluationDataset(load_dataset(tmp_path / "data", "test"), EvaluationTransform(32))


class Counted(torch.nn.Module):
    """Counts images, and is killed at one of them."""

    def __init__(self, network, last=10**9):
        super().__init__()
        self.network, self.images, self.last = network, 0, last

    def forward(self, pixel_values):
        self.images += len(pixel_values)
        if self.images > self.last:
            raise KeyboardInterrupt
        return self.network(pixel_values)


def test_outputs_are_those_of_single_images(network, dataset):
    found = ClassifierOutputs(network, BY_FOUR).of(dataset, "known", (LOGITS, FEATURES))
    with torch.inference_mode():
        pixels = [dataset[index]["pixel_values"][None] for index in range(18)]
        logits = torch.cat([network(each).logits for each in pixels])
        features = torch.cat([network.base_model(each).pooler_output for each in pixels])
    assert torch.allclose(found.logits, logits, atol=1e-5)
    assert torch.allclose(found.features, features, atol=1e-5)
    only = ClassifierOutputs(network, BY_FOUR).of(dataset, "bank", (FEATURES,))
    assert torch.equal(only.features, found.features)
    assert only.logits.numel() == 0


def test_a_killed_run_goes_on_after_the_last_block(network, dataset, tmp_path):
    whole = ClassifierOutputs(network, BY_FOUR).of(dataset, "known")
    killed = Counted(network, last=12)
    with pytest.raises(KeyboardInterrupt):
        ClassifierOutputs(killed, BY_FOUR, kept(tmp_path)).of(dataset, "known")
    rest = Counted(network)
    again = ClassifierOutputs(rest, BY_FOUR, kept(tmp_path)).of(dataset, "known")
    assert rest.images == 10  # one block of eight was finished
    assert torch.equal(again.logits, whole.logits)
    write(tmp_path / "data" / "test" / "c" / "17.bmp", 99)
    changed = Counted(network)
    other = ClassifierOutputs(changed, BY_FOUR, kept(tmp_path)).of(dataset, "known")
    assert changed.images == 2
    assert torch.equal(other.logits[:17], whole.logits[:17])
    assert not torch.equal(other.logits[17], whole.logits[17])


def test_what_is_wanted_too_is_computed_and_what_is_there_is_taken(network, dataset, tmp_path):
    outputs = ClassifierOutputs(network, BY_FOUR, kept(tmp_path))
    first = outputs.of(dataset, "known")
    both = outputs.of(dataset, "known", (LOGITS, FEATURES))
    assert len(both.features) == 18
    network.forward = None  # everything is on disk now
    assert torch.equal(outputs.of(dataset, "known").logits, first.logits)


def test_unreadable_images_are_left_out_also_when_resumed(network, dataset, tmp_path):
    for index in (3, 16, 17):
        (tmp_path / "data" / "test" / "c" / f"{index:02d}.bmp").write_bytes(b"broken")
    outputs = ClassifierOutputs(network, replace(BY_FOUR, max_bad_fraction=0.5), kept(tmp_path))
    found = [outputs.of(dataset, "known") for _ in range(2)]
    assert found[0].skipped == found[1].skipped == ("c/03.bmp", "c/16.bmp", "c/17.bmp")
    assert torch.equal(found[0].logits, found[1].logits)
    assert len(found[0].logits) == 15
    with pytest.raises(ValueError, match="1 of 18 images cannot be read"):
        ClassifierOutputs(network, BY_FOUR, kept(tmp_path)).of(dataset, "known")
    for index in range(18):
        (tmp_path / "data" / "test" / "c" / f"{index:02d}.bmp").write_bytes(b"broken")
    with pytest.raises(ValueError, match="known: no image could be read"):
        ClassifierOutputs(network, replace(BY_FOUR, max_bad_fraction=1.0)).of(dataset, "known")
