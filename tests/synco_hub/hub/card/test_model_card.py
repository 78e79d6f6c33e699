import json
import re
from dataclasses import replace

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from transformers import ViTImageProcessor

from synco_hub.data import load_dataset
from synco_hub.evaluation.measurement import data_source
from synco_hub.hub.card.facts import read_zoo_facts
from synco_hub.hub.card.model_card import (
    find_dataset_again,
    find_results_in,
    list_foreign_results,
    refresh_card,
    render_expected_card,
    write_card,
)
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.weights_identity import hash_weights
from synco_hub.zoo import ZOO


def result(protocol="knn", parameters=None, weights=None, **metrics: float) -> EvaluationResult:
    return EvaluationResult(
        metrics=metrics,
        model=ModelSource("my-vit", weights=weights),
        dataset=DataSource("photographs", "test", 40),
        protocol=ProtocolFacts(protocol, {"temperature": 0.07} if parameters is None else parameters),
    )


def test_a_card_holds_facts_and_the_numbers_that_were_measured(tmp_path):
    config = SynCoConfig(backbone="vit-nano", pretraining={"method": "moby"}).to_dict()
    write_card(tmp_path, "my-vit", config, {"seed": 7, "data": {"name": "photographs"}}, [result(top1_k10=61.25)])
    card = ModelCard.load(tmp_path / "README.md")
    assert "| data.name | photographs |" in card.text
    assert "| knn | photographs (test, 40 images) | top1_k10 | 61.25 |" in card.text
    assert 'from_pretrained("my-vit")' in card.text
    data = yaml.safe_load(card.content.split("---")[1])
    metric = data["model-index"][0]["results"][0]["metrics"][0]
    assert (metric["type"], metric["value"]) == ("top1_k10", 61.25)
    assert data["library_name"] == "transformers"


def test_a_card_without_measurements_shows_no_number(tmp_path):
    write_card(tmp_path, "my-vit", SynCoConfig(backbone="vit-nano").to_dict(), {})
    card = ModelCard.load(tmp_path / "README.md")
    assert "Not measured yet" in card.text
    assert "model-index" not in card.content


@pytest.mark.parametrize("name", [row.name for row in ZOO.values() if row.paper])
def test_every_card_of_the_zoo_passes_the_hubs_validation_and_marks_the_papers_numbers(name, hub, tmp_path):
    config = SynCoConfig(backbone=ZOO[name].backbone).to_dict()
    write_card(tmp_path, name, config, {}, [result(top1_k10=61.25)], facts=read_zoo_facts(name))
    card = ModelCard.load(tmp_path / "README.md")
    HfApi(endpoint=hub.url)._validate_yaml(card.content)
    assert "POST /api/validate-yaml" in hub.requests
    measured, reported = card.text.split("### Reported by the paper, not re-measured")
    assert "61.25" in measured
    for number in map(str, ZOO[name].paper.values()):
        assert f"{float(number):.2f}" in reported or number in reported
        assert number not in measured.split("## Results")[1]
    assert [entry.metric_value for entry in card.data.eval_results] == [61.25]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no metadata", "no metadata"),
        ("---\nlicense: my-own\n---\n", "license"),
        ("---\nlicense: other\n---\n", "license_name"),
        ("---\nmodel-index:\n- name: a\n  results:\n  - task: {type: x}\n---\n", "metrics"),
    ],
)
def test_the_loopback_hub_refuses_bad_metadata(content, message, hub):
    with pytest.raises(ValueError, match=message):
        HfApi(endpoint=hub.url)._validate_yaml(content)


def checkpoint(directory, **config):
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(SynCoConfig(**{"backbone": "vit-nano"} | config).to_dict()))
    return directory


def test_a_card_is_written_anew_from_what_lies_there_and_keeps_what_was_chosen(tmp_path):
    run = checkpoint(tmp_path / "my-vit")
    result(top1_k10=61.25).save(run / "results_knn.json")
    result(top1_k20=12.5).save(run / "results" / "more" / "knn.json")
    (run / "pretraining_settings.json").write_text(
        '{"data": {"name": "photographs", "num_images": 40}, "training": {"a": 1}}'
    )
    refresh_card(run, "tester/my-vit", licence="cc-by-4.0")
    assert len(refresh_card(run)) == 2
    card = ModelCard.load(run / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert 'AutoModel.from_pretrained("tester/my-vit")' in card.text
    assert card.data.model_name == "my-vit"
    assert {entry.metric_value for entry in card.data.eval_results} == {61.25, 12.5}
    assert "photographs, 40 images" in card.text
    assert "Reported by the paper" not in card.text


def test_a_card_shows_numbers_of_its_own_weights_only(tmp_path):
    torch.manual_seed(0)
    backbone, other = (SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)) for _ in range(2))
    run = tmp_path / "run"
    backbone.save_pretrained(run)
    own, foreign = hash_weights(backbone), hash_weights(other)
    result(top1_k10=61.25, weights=own).save(run / "own.json")
    result(top1_k10=12.5, weights=foreign).save(run / "trained_further.json")
    result(top1_k10=33.0).save(run / "results" / "of_version_0_1.json")
    # A head that was trained on these weights is about them, one that was trained on others is not.
    for name, trained_on in (("probe", own), ("other_probe", foreign)):
        probe = result("linear_probe", {"backbone_weights": trained_on}, top1_last_epoch=70.0, weights="0" * 16)
        probe.save(run / f"{name}.json")
    refresh_card(run)
    assert [each.metrics for each in find_results_in(run)] == [{"top1_k10": 61.25}, {"top1_last_epoch": 70.0}]
    card = (run / "README.md").read_text()
    assert "61.25" in card
    assert "12.5" not in card
    assert "33.0" not in card
    other_probe, stale, old = list_foreign_results(run)
    assert stale.startswith(f"trained_further.json is about other weights than these ({foreign}, here {own})")
    assert old.startswith("results/of_version_0_1.json does not say which weights it is about")
    assert f"synco-hub evaluate classification --model {run}" in other_probe


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_the_code_of_a_backbone_runs_as_it_is_copied(tmp_path, monkeypatch, channels, mode):
    run = tmp_path / "backbone"
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1, num_channels=channels)).eval()
    network.save_pretrained(run)
    processor = ViTImageProcessor(
        size={"height": 32, "width": 32}, image_mean=[0.5] * channels, image_std=[0.2] * channels
    )
    processor.save_pretrained(run)
    refresh_card(run, str(run), licence="mit")
    (code,) = re.findall(r"```python\n(.*?)```", ModelCard.load(run / "README.md").text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 50), "red").save("photo.jpg")
    space: dict = {}
    exec(code, space)
    with torch.no_grad():
        pixels = processor(Image.open("photo.jpg").convert(mode), return_tensors="pt")["pixel_values"]
        assert torch.allclose(space["features"], network(pixels).pooler_output, atol=1e-6)


def test_the_card_of_a_classifier_has_its_code_and_the_number_of_the_weights_that_it_ships(tmp_path, monkeypatch):
    run = tmp_path / "classifier"
    names = {0: "fern", 1: "tree", 2: "leaf"}
    config = SynCoConfig(backbone="vit-nano", depth=1, id2label=names, label2id={b: a for a, b in names.items()})
    classifier = SynCoForImageClassification(config).eval()
    classifier.save_pretrained(run)
    image_processor(32).save_pretrained(run)
    metrics = {"top1_last_epoch": 43.00000000000001, "top1_best_epoch": 44.5, "top1_last_epoch_lr0.1": 41.0}
    probe = result("linear_probe", {}, **metrics, weights=hash_weights(classifier))
    probe = replace(probe, notes=("the learning rate was chosen on the test split",))
    probe.save(run / "linear_probe.json")
    trained = {"protocol": "linear_probe", "epochs": 3, "train": {"name": "garden", "num_images": 30}}
    (run / "classification_settings.json").write_text(json.dumps(trained))
    refresh_card(run, str(run), licence="mit")
    card = ModelCard.load(run / "README.md")
    assert [(each.metric_type, each.metric_value) for each in card.data.eval_results] == [("top1_last_epoch", 43.0)]
    assert "43.00000" not in card.content
    assert "44.5" not in card.content
    assert "linear_probe on photographs: the learning rate was chosen on the test split" in card.text
    assert "with a classifier of 3 classes" in card.text
    assert "The classifier: garden, 30 images, with labels." in card.text
    assert "| classifier.epochs | 3 |" in card.text
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    # The code is copied as it stands: beside it lies a picture.
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 50), "red").save("photo.jpg")
    space: dict = {}
    exec(code, space)
    inputs = image_processor(32)(Image.open("photo.jpg"), return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(space["logits"], classifier(**inputs).logits)
    # A replaced head is another classifier, though the backbone is the same.
    with torch.no_grad():
        classifier.classifier.bias += 1
    classifier.save_pretrained(run)
    assert find_results_in(run) == []
    result(top1_k10=50.0, weights=hash_weights(classifier.synco)).save(run / "knn.json")
    assert [each.metrics for each in find_results_in(run)] == [{"top1_k10": 50.0}]


def test_the_command_line_of_a_run_and_of_a_probe_stands_in_no_card_and_the_card_is_the_one_that_is_due(tmp_path):
    run = checkpoint(tmp_path / "mine")
    flags = ["--dataset", "/home/somebody/photographs"]
    (run / "pretraining_settings.json").write_text(json.dumps({"seed": 7, "flags": flags}))
    (run / "classification_settings.json").write_text(json.dumps({"protocol": "linear_probe", "flags": flags}))
    refresh_card(run, licence="mit")
    card = (run / "README.md").read_text()
    assert "| seed | 7 |" in card
    assert "| classifier.protocol | linear_probe |" in card
    assert "somebody" not in card
    assert render_expected_card(run).text.strip() == ModelCard.load(run / "README.md").text.strip()


def test_what_a_run_recorded_goes_before_what_the_paper_says(tmp_path):
    run = checkpoint(tmp_path / "mine", backbone="deit-s")
    (run / "pretraining_settings.json").write_text('{"data": {"name": "photographs"}, "training": {"max_steps": 3}}')
    refresh_card(run, facts="byol-deit-s")
    card = ModelCard.load(run / "README.md")
    assert "ImageNet ILSVRC-2012" not in card.text
    assert "datasets" not in card.data.to_dict()
    assert card.data.license is None


def test_bad_facts_and_licences_are_refused(tmp_path):
    run = checkpoint(tmp_path / "run", pretraining={"method": "moby"})
    for arguments, message in (
        ({"facts": "synco-v2-deit-s"}, "are not about .* moby on 'vit-nano'"),
        ({"facts": "nothing"}, "no facts are known about 'nothing'"),
        ({"licence": "Apache License"}, "is no identifier of the Hub"),
        ({"licence": "other"}, "needs a name"),
    ):
        with pytest.raises(ValueError, match=message):
            refresh_card(run, **arguments)
    assert not (run / "README.md").exists()
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        refresh_card(tmp_path)


@pytest.mark.parametrize("name", ["", 'x")\nimport os  #', "two\nlines", "back\\slash", "\x1b[2J", "n" * 300])
def test_a_name_that_would_break_the_cards_code_is_refused_and_not_kept(tmp_path, name):
    run = checkpoint(tmp_path / "my-vit")
    with pytest.raises(ValueError, match="cannot be what the model is loaded by"):
        refresh_card(run, name)
    assert [path.name for path in run.iterdir()] == ["config.json"]
    refresh_card(run, "runs/it's mine")
    assert 'from_pretrained("runs/it\'s mine")' in (run / "README.md").read_text()


@pytest.mark.parametrize(
    "config", ["{", "[]", "3", "[" * 100_000, '{"hidden_size": 1, "backbone": "x", "pretraining": 3}']
)
def test_a_configuration_that_is_none_is_named(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config\.json is no configuration.*save the model anew"):
        refresh_card(tmp_path)


@pytest.mark.parametrize(
    "choice",
    ["fractals", "fractals:num_classes=4", "fractals:num_classes=3,test_images_per_class=5,image_size=16"],
)
def test_fractals_are_found_again_with_all_that_was_said_of_them(choice):
    test, train = load_dataset(choice, "test").description, load_dataset(choice, "train").description
    stated = replace(
        result(top1_k10=1.0),
        dataset=data_source(test, test.num_images),
        training_dataset=data_source(train, train.num_images),
    )
    assert find_dataset_again(stated) == choice
    # An earlier version did not say it: what it counted tells.
    words = {"description": stated.dataset.description.partition(" (fractals")[0]}
    old = replace(stated, dataset=replace(stated.dataset, **words))
    old = replace(old, training_dataset=replace(stated.training_dataset, **words))
    found = load_dataset(find_dataset_again(old), "test").description
    assert found.fingerprint == test.fingerprint
    unknown = replace(old, dataset=replace(old.dataset, fingerprint="0" * 16))
    assert find_dataset_again(unknown) == "fractals"


def test_a_folder_is_found_again_where_it_lies(tmp_path):
    for split in ("train", "test"):
        (tmp_path / "my photos" / split / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "my photos" / split / "cat" / "a.png")
    about = load_dataset(str(tmp_path / "my photos"), "test").description
    stated = replace(result(top1_k10=1.0, weights="0" * 16), dataset=data_source(about, 1))
    assert find_dataset_again(stated) == str(tmp_path / "my photos")
    assert find_dataset_again(replace(stated, dataset=replace(stated.dataset, name="elsewhere"))) == "elsewhere"
    run = tmp_path / "run"
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(run)
    stated.save(run / "knn.json")
    (line,) = list_foreign_results(run)
    command = f"synco-hub evaluate knn --model {run} --dataset '{tmp_path / 'my photos'}' --output {run / 'knn.json'}"
    assert command in line
