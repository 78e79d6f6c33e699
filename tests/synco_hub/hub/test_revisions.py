"""Which commit of a Hub model was measured: over HTTP, by the real client, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalEntryNotFoundError
from loopback_hub.server import TOKEN
from safetensors.torch import save_file

import synco_hub
from synco_hub.hub import model_names
from synco_hub.hub.model_names import find_revision
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.weights_identity import hash_weights

REPO = "tester/my-vit"
FRACTALS = "fractals:num_classes=5,train_images_per_class=3,test_images_per_class=2"
MEASURING = """
import dataclasses, json, sys
import synco_hub
found = []
for model, revision in json.loads(sys.argv[1]):
    try:
        result = synco_hub.evaluate(
            "knn", model, sys.argv[2], model_revision=revision, k=3, num_workers=0, device="cpu", progress=False
        )
        found.append(dataclasses.asdict(result.model))
    except (ValueError, OSError) as error:
        found.append(str(error))
print("RESULT" + json.dumps(found))
"""


def measure_elsewhere(hub, tmp_path, asked, **environment):
    """What results say about the models, by name and revision."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        **{"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"},
        **{"SYNCO_HUB_HOME": str(tmp_path / "home"), **environment},
    }
    command = [sys.executable, "-c", MEASURING, json.dumps(asked), FRACTALS]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])


@pytest.fixture
def commits(hub, hub_api: HfApi, tmp_path):
    """Two commits of a repository, as (hash of the commit, hash of its weights)."""
    hub_api.create_repo(REPO)
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
        network.save_pretrained(tmp_path / "run")
        image_processor(32).save_pretrained(tmp_path / "run")
        done = hub_api.upload_folder(folder_path=tmp_path / "run", repo_id=REPO)
        made.append((done.oid, hash_weights(network)))
    return made


def test_a_result_names_the_commit_and_a_revision_chooses_it(hub, commits, tmp_path):
    (old, old_weights), (new, new_weights) = commits
    asked = [(REPO, None), (REPO, old), (REPO, "main"), (REPO, "of-no-time")]
    newest, earlier, branch, wrong = measure_elsewhere(hub, tmp_path, asked)
    assert (newest["revision"], newest["weights"]) == (new, new_weights)
    assert (branch["revision"], branch["weights"]) == (new, new_weights)
    assert (earlier["revision"], earlier["weights"]) == (old, old_weights)
    assert "of-no-time" in wrong
    assert len(wrong.splitlines()) <= 3
    # What was loaded once is measured and named without a network too.
    hub.application.log.clear()
    offline = measure_elsewhere(hub, tmp_path, [(REPO, None), (REPO, old)], HF_HUB_OFFLINE="1")
    assert [each["revision"] for each in offline] == [new, old]
    assert not hub.requests


def test_a_timm_name_has_a_commit_too(hub, hub_api, tmp_path):
    repository = timm.get_pretrained_cfg("test_vit").hf_hub_id
    hub.store.create("model", repository, False)
    commits, hashes = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        network = timm.create_model("test_vit")
        (tmp_path / "timm").mkdir(exist_ok=True)
        save_file(network.state_dict(), tmp_path / "timm" / "model.safetensors", {"format": "pt"})
        (tmp_path / "timm" / "config.json").write_text("{}")
        commits.append(hub_api.upload_folder(folder_path=tmp_path / "timm", repo_id=repository).oid)
        network.reset_classifier(0)
        hashes.append(hash_weights(network))
    name = "timm:test_vit"
    newest, earlier, wrong = measure_elsewhere(hub, tmp_path, [(name, None), (name, commits[0]), (name, "no-such")])
    assert (newest["revision"], newest["weights"]) == (commits[1], hashes[1])
    assert (earlier["revision"], earlier["weights"]) == (commits[0], hashes[0])
    assert "no such revision" in wrong
    offline = measure_elsewhere(hub, tmp_path, [(name, None)], HF_HUB_OFFLINE="1")
    assert offline[0]["revision"] == commits[1]


def test_timm_waits_for_an_unreachable_hub_once(monkeypatch):
    """Here for the commit; timm itself would again for each of two files of weights."""

    def unreachable(repository, file, revision=None):
        asked.append((repository, file))
        raise LocalEntryNotFoundError("no network")

    asked: list = []
    monkeypatch.setattr(model_names, "hf_hub_download", unreachable)
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda *place, revision: None)
    quick = {"batch_size": 2, "device": "cpu", "progress": False}
    with pytest.raises(OSError, match=r"'timm:test_vit': its weights, timm/.* are not in the cache"):
        synco_hub.evaluate("knn", "timm:test_vit", FRACTALS, **quick)
    assert len(asked) == 1
    with monkeypatch.context() as offline:
        offline.setattr(model_names, "is_offline_mode", lambda: True)
        with pytest.raises(OSError, match="are not in the cache, and HF_HUB_OFFLINE forbids"):
            synco_hub.evaluate("knn", "timm:test_vit", FRACTALS, **quick)
    assert synco_hub.evaluate("knn", "timm:test_vit", FRACTALS, random_network=True, num_workers=0, **quick).metrics
    monkeypatch.setattr(model_names, "try_to_load_from_cache", lambda *place, revision: f"/x/snapshots/{'a' * 40}/w")
    assert find_revision("timm:test_vit").commit == "a" * 40


def test_a_directory_has_no_revision_and_an_installed_one_has_that_of_its_pull(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    place = tmp_path / "checkpoints" / "moby-vit-nano"
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(place)
    found = find_revision(str(place))
    assert (found.commit, found.words) == (None, "none: a local directory")
    with pytest.raises(ValueError, match=r"--model-revision v1 of '.*': it is a directory .* leave it out"):
        find_revision(str(place), "v1")
    commit = "a" * 40
    (place / "installed_from.json").write_text(json.dumps({"source": REPO, "revision": commit}))
    assert find_revision("moby-vit-nano").words == find_revision("moby-vit-nano", commit).words == commit
    with pytest.raises(ValueError, match="synco-hub pull moby-vit-nano --revision v1"):
        find_revision("moby-vit-nano", "v1")
    assert find_revision(str(Path(place))).commit is None
