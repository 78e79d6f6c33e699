import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.publication.checks import (
    find_card_problems,
    find_config_problems,
    find_conversion_problems,
    find_secrets,
    find_weight_problems,
    fit_problems,
    looks_pickled,
    looks_secret,
)
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.models.modeling_synco import AUTO_MAP
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.weights_identity import hash_saved_weights


def measured(directory):
    return ModelSource("my-vit", weights=hash_saved_weights(directory)[0])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "my-vit"
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    EvaluationResult(
        {"top1_k10": 61.25}, measured(directory), DataSource("cifar10", "test", 40), ProtocolFacts("knn")
    ).save(directory / "results_knn.json")
    refresh_card(directory, licence="mit")
    return directory


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "my-vit")


def test_a_whole_checkpoint_has_no_problem(run):
    assert (
        find_config_problems(run, AUTO_MAP)
        == find_weight_problems(run)
        == find_conversion_problems(run)
        == find_card_problems(run)
        == []
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_are_found_wherever_they_are(run, value):
    tensors = load_file(run / "model.safetensors")
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = value
    save_file(tensors, run / "model.safetensors", {"format": "pt"})
    (problem,) = find_weight_problems(run)
    assert "NaN or infinity in 1 tensors" in problem
    assert name in problem


def test_truncated_missing_and_incomplete_weights(run):
    (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-100])
    assert "cannot be read" in find_weight_problems(run)[0]
    (run / "model.safetensors").unlink()
    assert "no weights in .safetensors" in find_weight_problems(run)[0]
    save_file({"a": torch.zeros(1)}, run / "model-00001-of-00002.safetensors")
    (run / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x", "b": "y"}}))
    assert "1 weights of model.safetensors.index.json are in no file (first: b)" in find_weight_problems(run)[0]
    for damaged in ("{", "[]", "null", '{"weight_map": 3}', "{}"):
        (run / "model.safetensors.index.json").write_text(damaged)
        assert "model.safetensors.index.json cannot be read" in find_weight_problems(run)[0]


def test_weights_of_another_network_than_the_configs_are_found(run):
    assert fit_problems(run) == []
    tensors = load_file(run / "model.safetensors")
    save_file({f"x{index}": torch.zeros(2) for index in range(50)}, run / "model.safetensors", {"format": "pt"})
    (problem,) = fit_problems(run)
    assert "42 missing: backbone.blocks.0.attn.proj.bias" in problem
    assert "50 left over: x0, x1" in problem
    save_file(tensors | {"backbone.norm.bias": torch.zeros(95)}, run / "model.safetensors", {"format": "pt"})
    assert "1 wrong-shaped: backbone.norm.bias (95,) instead of (96,)" in fit_problems(run)[0]


@pytest.mark.parametrize(
    ("report", "message"),
    [
        ({"clean": False, "leftover": [], "missing": []}, "is not clean: 0 tensors left over, 0 missing"),
        ({"clean": True, "leftover": ["head.weight"], "missing": []}, "1 tensors left over.*head.weight"),
        ({"clean": True, "leftover": [], "missing": ["norm.bias", "cls"]}, "2 missing.*norm.bias, cls"),
        ({"clean": True}, "cannot be read"),
        ([], "cannot be read"),
    ],
)
def test_a_dirty_conversion_is_found(run, report, message):
    (run / "conversion_report.json").write_text(json.dumps(report))
    (problem,) = find_conversion_problems(run)
    assert re.search(message, problem), problem
    (run / "conversion_report.json").write_text(json.dumps({"clean": True, "leftover": [], "missing": []}))
    assert find_conversion_problems(run) == []


def test_configurations_that_load_only_here(run):
    config = json.loads((run / "config.json").read_text())
    for change in ({"model_type": "vit"}, {"auto_map": {"AutoModel": AUTO_MAP["AutoModel"]}}):
        (run / "config.json").write_text(json.dumps(config | change))
        assert len(find_config_problems(run, AUTO_MAP)) == 1
    (run / "config.json").write_text("{")
    assert "not JSON" in find_config_problems(run, AUTO_MAP)[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: mit\n", "", "no licence has been chosen: `synco-hub card"),
        ("pipeline_tag: image-feature-extraction\n", "", "metadata has no pipeline_tag"),
        ("## Limits\n", "## Nothing\n", "no section 'Limits'"),
        ("value: 61.25", "value: 99.25", "the card says knn top1_k10 = 99.25, which no result file has"),
        ("license: mit", "license: [", "is not valid"),
        ("| 61.25 |", "| 71.25 |", "the table of results in the card is not that of the result files"),
        ("## Limits", "k-NN top-1: 99.9 %\n\n## Limits", "the table of results in the card is not that of"),
    ],
)
def test_gaps_and_numbers_without_a_source_are_found_in_the_card(run, old, new, message):
    text = (run / "README.md").read_text()
    assert old in text
    (run / "README.md").write_text(text.replace(old, new))
    assert any(message in problem for problem in find_card_problems(run)), find_card_problems(run)


@pytest.mark.parametrize("typed", ["k-NN top-1 99.9 %\n", "## Further\n\nAccuracy: 0.999\n"])
def test_what_somebody_typed_into_the_card_is_found_wherever_it_stands(run, typed):
    card = run / "README.md"
    text = card.read_text()
    card.write_bytes(text.replace("\n", "\r\n").encode())
    assert find_card_problems(run) == []
    for changed in (f"{text}\n{typed}", text.replace("## Backbone\n", f"{typed}\n## Backbone\n")):
        card.write_text(changed)
        (problem,) = find_card_problems(run)
        assert "is not what facts and result files say" in problem
        assert repr(typed.splitlines()[0]) in problem
        assert "go into a facts file" in problem
    refresh_card(run)
    assert find_card_problems(run) == []


def test_a_result_that_the_card_does_not_show_is_found(run):
    EvaluationResult({"top1_k20": 3.0}, measured(run), DataSource("cifar10", "test", 40), ProtocolFacts("knn")).save(
        run / "later.json"
    )
    problems = find_card_problems(run)
    assert len(problems) == 1
    assert "the card does not say knn top1_k20 = 3.0, which a result file has and 2 more: write it anew" in problems[0]
    refresh_card(run)
    assert find_card_problems(run) == []


def test_names_and_contents_that_must_not_leave(tmp_path):
    assert all(map(looks_pickled, ("pytorch_model.bin", "last.pth", "x.PKL", "a.ckpt")))
    assert not any(map(looks_pickled, ("model.safetensors", "config.json")))
    assert all(map(looks_secret, (".env", "id_rsa", "server.pem", "aws_credentials.json", ".netrc")))
    assert not any(map(looks_secret, ("config.json", "README.md", "tokenizer.json")))
    secrets = {
        "a": "hf_" + "a1" * 17,
        "b": "ghp_" + "Z" * 36,
        "c": "AKIA" + "B" * 16,
        "d": "-----BEGIN RSA PRIVATE KEY-----",
    }
    for name, secret in secrets.items():
        (tmp_path / name).write_text(f"token: {secret}\n")
        assert len(find_secrets([tmp_path / name])) == 1
    (tmp_path / "harmless").write_text("hf_hub_download; sk-learn; AKIA")
    assert find_secrets([tmp_path / "harmless"]) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("license: mit", "license: apache-2.0", "license = 'apache-2.0', but facts and result files 'mit'"),
        ("license: mit", "license: mit\nlicense_name: mine", "license_name = 'mine'"),
        ("license: mit", "license: mit\ndatasets:\n- a/b", r"datasets = \['a/b'\]"),
        ("library_name: transformers", "library_name: timm", "library_name = 'timm'"),
    ],
)
def test_metadata_that_somebody_typed_into_the_card_are_found(run, old, new, message):
    card = (run / "README.md").read_text()
    assert old in card
    (run / "README.md").write_text(card.replace(old, new, 1))
    (problem,) = find_card_problems(run)
    assert re.search(message, problem)


def test_languages_of_ones_own_may_stand_in_the_metadata(run):
    card = (run / "README.md").read_text()
    (run / "README.md").write_text(card.replace("license: mit", "license: mit\nlanguage: en", 1))
    assert find_card_problems(run) == []
