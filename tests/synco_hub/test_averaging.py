"""The line between two checkpoints: its ends are the checkpoints, and the rule chooses by held-out images alone."""

import json

import pytest
import torch
from command_line import invoke
from transformers import AutoModel

from synco_hub.averaging import (
    AVERAGE_FILE,
    FIGURE_FILE,
    POINTS,
    average,
    choose_point,
    format_average,
    mix,
    recall_domains,
    split_features,
)
from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.evaluation.knn import evaluate_knn
from synco_hub.evaluation.measurement import EvaluatedModel, measure_split
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.start import read_start
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import DatasetChoice, KnnSettings

NEW = "fractals:num_classes=3,train_images_per_class=20,test_images_per_class=4"
KEPT = "fractals:num_classes=2,train_images_per_class=20,test_images_per_class=4"
CHOICES = {"new": DatasetChoice(NEW), "kept": DatasetChoice(KEPT)}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def save(directory, seed, **values):
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig(backbone="vit-nano", **{"depth": 1, **values}))
    model.save_pretrained(directory)
    image_processor(model.config.image_size).save_pretrained(directory)
    return str(directory)


@pytest.fixture
def ends(tmp_path):
    return save(tmp_path / "start", 0), save(tmp_path / "end", 1)


def point(share, new, kept, test=0.0):
    return {"share": share, "held_out": {"new": new, "kept": kept}, "test": {"new": test, "kept": test}}


def test_the_rule_takes_the_best_of_those_that_forget_at_most_a_point():
    points = [point(0.0, 50, 80), point(0.1, 60, 79.0), point(0.2, 60, 79.5), point(0.3, 90, 78.9, test=100)]
    assert choose_point(points)["share"] == 0.1
    # What comes back after a gap is chance.
    assert choose_point([point(0.0, 50, 80), point(0.5, 60, 70), point(1.0, 70, 80)])["share"] == 0.0
    assert choose_point([point(0.0, 50, 80), point(0.5, 50, 90), point(1.0, 40, 90)])["share"] == 0.0


def test_the_ends_of_the_line_are_the_checkpoints_and_the_middle_is_their_mean(ends):
    start, end = (read_start(name) for name in ends)
    for share, whole in ((0.0, start), (1.0, end)):
        mixed = mix(start, end, share).model.state_dict()
        assert all(torch.equal(mixed[key], value) for key, value in whole.model.state_dict().items())
    key = "backbone.blocks.0.mlp.fc1.weight"
    sides = [each.model.state_dict()[key] for each in (start, end)]
    assert torch.allclose(mix(start, end, 0.25).model.state_dict()[key], 0.75 * sides[0] + 0.25 * sides[1], atol=1e-7)


def test_eleven_points_a_figure_and_weights_that_load(ends, tmp_path):
    report = average(*ends, tmp_path / "average", CHOICES)
    assert [each["share"] for each in report["points"]] == pytest.approx([index / 10 for index in range(POINTS)])
    assert json.loads((tmp_path / "average" / AVERAGE_FILE).read_text()) == report
    assert (tmp_path / "average" / FIGURE_FILE).stat().st_size > 1000
    # The first point is the start as `evaluate knn` measures it.
    start = read_start(ends[0])
    transform = EvaluationTransform.from_image_processor(start.processor)
    for name, dataset in (("new", NEW), ("kept", KEPT)):
        sides = [
            EvaluationDataset(load_dataset(dataset, split, image_size=32), transform) for split in ("train", "test")
        ]
        settings = KnnSettings(k=[10], num_workers=0, progress=False)
        measured = evaluate_knn(EvaluatedModel(start.model, start.processor, "start"), *sides, settings)
        assert report["points"][0]["test"][name] == measured.metrics["top1_k10"]
        assert report["points"][0]["test_standard_error"][name] == measured.standard_errors["top1_k10"]
    loaded = AutoModel.from_pretrained(tmp_path / "average")
    taken = mix(start, read_start(ends[1]), report["recommended"]["share"]).model
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in taken.state_dict().items())
    assert "<- recommended" in format_average(report)
    # What `synco-hub card` writes anew says the same of how it was made.
    before = (tmp_path / "average" / "README.md").read_text()
    assert "| recommended.share |" in before
    refresh_card(tmp_path / "average")
    assert (tmp_path / "average" / "README.md").read_text() == before


def test_held_out_images_are_a_fifth_of_each_class_and_no_bank(ends):
    start = read_start(ends[0])
    images = load_dataset(NEW, "train", image_size=32)
    transform = EvaluationTransform.from_image_processor(start.processor)
    settings = KnnSettings(num_workers=0, progress=False)
    whole = measure_split(start.model, EvaluationDataset(images, transform), settings)
    bank, queries = split_features(whole, 0)
    assert torch.bincount(queries.features.labels).tolist() == [4, 4, 4]
    assert len(bank.features.values) + len(queries.features.values) == len(images)
    assert not set(bank.features.indices.tolist()) & set(queries.features.indices.tolist())


def test_two_networks_that_are_not_of_one_shape_are_refused(ends, tmp_path):
    for number, values in enumerate(({"depth": 2}, {"num_heads": 4}, {"patch_size": 16})):
        other = save(tmp_path / f"{number}", 2, **values)
        with pytest.raises(ValueError, match="are not two states of one network"):
            average(ends[0], other, tmp_path / "average", CHOICES)
    # Another image size is none: positions are interpolated as when a run begins.
    larger = read_start(ends[0], image_size=48)
    larger.model.save_pretrained(tmp_path / "larger")
    larger.processor.save_pretrained(tmp_path / "larger")
    report = average(ends[0], str(tmp_path / "larger"), tmp_path / "average", CHOICES)
    assert report["points"][0]["test"] == report["points"][-1]["test"]
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        average(*ends, tmp_path / "average", CHOICES)
    assert not list(tmp_path.glob(".average*"))


def test_the_command_takes_the_domains_of_the_run(ends, tmp_path):
    result = invoke(["average", *ends, "--output", tmp_path / "average", "--dataset", NEW])
    assert "give --keep-dataset" in str(result.exception)
    settings = {"domains": {"kept": {"dataset": KEPT}, "new": {"dataset": NEW, "split_seed": 3}}}
    (tmp_path / "end" / "pretraining_settings.json").write_text(json.dumps(settings))
    assert recall_domains(ends[1])["new"].split_seed == 3
    assert recall_domains(f"{ends[1]}/checkpoint-3")["kept"].dataset == KEPT
    result = invoke(["average", *ends, "--output", tmp_path / "average", "--num-workers", "0", "--num-images", "12"])
    assert result.exit_code == 0, result.exception
    assert "<- recommended" in result.output
    told = json.loads((tmp_path / "average" / AVERAGE_FILE).read_text())["domains"]["new"]
    assert [each["num_images"] for each in told] == [12, 12]
