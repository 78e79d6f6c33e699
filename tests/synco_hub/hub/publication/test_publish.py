import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub.faults import Kind
from safetensors.torch import load_file, save_file

from synco_hub.cli.checkpoints import publish as publish_command
from synco_hub.cli.options import PublishOptions
from synco_hub.data.pretraining_images import FINGERPRINTS_FILE, PARTS_FOLDER
from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.publication.publish import publish, upload_plan
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.weights_identity import hash_saved_weights

REPO = "tester/my-vit"
MODEL_CODE = {path.name for path in (Path(__file__).parents[4] / "synco_hub" / "models").glob("*_synco.py")}


def measure(directory):
    source = ModelSource("my-vit", weights=hash_saved_weights(directory)[0])
    EvaluationResult({"top1_k10": 61.25}, source, DataSource("cifar10", "test", 40), ProtocolFacts("knn")).save(
        directory / "results_knn.json"
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "my-vit"
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    measure(directory)
    (directory / "checkpoint-3").mkdir()
    (directory / "checkpoint-3" / "optimizer.pt").write_bytes(b"a pickle")
    (directory / "training_args.bin").write_bytes(b"a pickle")
    refresh_card(directory, REPO, licence="mit")
    return directory


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "my-vit")


def changed(run: Path) -> dict[str, bytes]:
    """Other weights and another card: what a second revision would be."""
    tensors = load_file(run / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, run / "model.safetensors", {"format": "pt"})
    measure(run)
    refresh_card(run, licence="cc-by-4.0")
    return {path: file.read_bytes() for path, file in upload_plan(run, REPO).files.items()}


def test_numbers_of_other_weights_are_not_published(run):
    tensors = load_file(run / "model.safetensors")
    save_file({name: torch.randn_like(value) for name, value in tensors.items()}, run / "model.safetensors")
    again = f"synco-hub evaluate knn --model {run} --dataset cifar10 --output {run}/results_knn.json"
    command = f"measure again on cifar10 with `{again}`"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"results_knn\.json is about other weights than these") as caught:
            upload_plan(run, REPO)
        assert command in str(caught.value)
        refresh_card(run)  # the card is right then, and the file still is not of these weights
    assert "61.25" not in (run / "README.md").read_text()
    values = json.loads((run / "results_knn.json").read_text())
    del values["model"]["weights"]
    (run / "results_knn.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"results_knn\.json does not say which weights it is about"):
        upload_plan(run, REPO)
    measure(run)
    refresh_card(run)
    assert "results_knn.json" in upload_plan(run, REPO).files


def test_what_measurements_keep_to_be_continued_stays_here(run):
    result = (run / "results_knn.json").read_bytes()
    for folder in ("attacks.batches", "results/ood.outputs", "results/shifts/more.batches"):
        (run / folder).mkdir(parents=True)
        (run / folder / "part.safetensors").write_bytes(b"half a measurement")
    (run / "results" / "shifts" / "knn.json").write_bytes(result)
    refresh_card(run)
    plan = upload_plan(run, REPO)
    assert {path for path in plan.files if path.startswith("results/")} == {"results/shifts/knn.json"}
    assert {"attacks.batches/", "results/ood.outputs/", "results/shifts/more.batches/"} <= set(plan.left)
    (run / "results" / "shifts" / "part.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"results/shifts/part.safetensors is no result of this package"):
        upload_plan(run, REPO)


def test_everything_that_makes_a_checkpoint_goes_and_nothing_else(run, hub, hub_api):
    # What images it has learned from is nobody else's to see.
    (run / FINGERPRINTS_FILE).write_bytes(b"")
    (run / PARTS_FOLDER).mkdir()
    plan = upload_plan(run, REPO)
    expected = {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", "results_knn.json"}
    expected |= MODEL_CODE | {"card_facts.yaml", ".eval_results/cifar10_knn_top1_k10.yaml"}
    assert set(plan.files) == expected
    assert set(plan.left) == {"checkpoint-3/", "training_args.bin", FINGERPRINTS_FILE, f"{PARTS_FOLDER}/"}
    published = publish(plan, REPO, api=hub_api)
    remote = hub.files(REPO)
    assert {path: remote[path] for path in expected} == {path: file.read_bytes() for path, file in plan.files.items()}
    assert set(remote) == expected | {".gitattributes"}
    assert published.commit == hub_api.model_info(REPO).sha
    assert len(hub.store.repositories["model", REPO].revisions) == 2
    assert sum("/commit/" in line for line in hub.requests) == 1
    assert any(line.startswith("PUT /lfs/") for line in hub.requests)
    assert ModelCard.load(run / "README.md").data.license == "mit"


def test_where_pictures_lie_on_this_computer_is_not_published(run, hub, hub_api, capsys):
    place = '/home/Jürgen Ø. "Ann"/my pictures/holiday'
    settings = {"data": {"source": place}, "flags": [f"--data-dir={place}/", f"{place}/one of them"], "rate": 1e-5}
    settings |= {"cache": "/data", "kind": "image/data"}
    (run / "pretraining_settings.json").write_text(json.dumps(settings))  # ASCII, as some tools write it
    result = json.loads((run / "results_knn.json").read_text())
    result["dataset"]["description"] = f"{place}; a fifth of each class is the test split"
    result["protocol"]["parameters"] = {"data_dir": "C:\\data\\x"}
    (run / "results_knn.json").write_text(json.dumps(result, ensure_ascii=False))
    refresh_card(run)
    before = {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}
    publish_command(PublishOptions(run, repo_id=REPO, dry_run=True))
    said = capsys.readouterr().out
    assert "paths of this computer are sent as their last part: pretraining_settings.json, results_knn.json" in said
    plan = upload_plan(run, REPO)
    publish(plan, REPO, api=hub_api)
    remote = hub.files(REPO)
    assert {path: len(remote[path]) for path in plan.files} == plan.sizes
    sent = json.loads(remote["pretraining_settings.json"])
    expected = {"data": {"source": "holiday"}, "flags": ["--data-dir=holiday/", "one of them"], "rate": 1e-5}
    assert sent == expected | {"cache": "data", "kind": "image/data"}
    sent = json.loads(remote["results_knn.json"])
    assert sent["dataset"]["description"] == "holiday; a fifth of each class is the test split"
    assert sent["protocol"]["parameters"] == {"data_dir": "x"}
    words = (b"J\\u00fcrgen", "Jürgen".encode(), b"my pictures")
    assert not any(word in content for content in remote.values() for word in words)
    assert before == {file.name: file.read_bytes() for file in run.iterdir() if file.is_file()}


def test_a_second_revision_drops_stale_files_of_ours_and_keeps_those_of_others(run, hub, hub_api):
    for path in ("model-00001-of-00002.safetensors", ".eval_results/old.yaml", "pictures/cat.jpg"):
        if not hub.files(REPO):
            hub_api.create_repo(REPO)
        content = b"- {dataset: {id: a/b, task_id: c}, value: 1}" if path.endswith("yaml") else b"old"
        hub_api.upload_file(repo_id=REPO, path_in_repo=path, path_or_fileobj=content)
    published = publish(upload_plan(run, REPO), REPO, api=hub_api)
    assert set(published.removed) == {"model-00001-of-00002.safetensors", ".eval_results/old.yaml"}
    remote = hub.files(REPO)
    assert "pictures/cat.jpg" in remote
    assert not set(published.removed) & set(remote)


FAULTS = [
    (Kind.error_500, "POST /api/repos/create"),
    (Kind.error_500, "POST .*/preupload/"),
    (Kind.drop_request, "POST .*/info/lfs/objects/batch"),
    (Kind.error_500, "PUT /lfs/"),
    (Kind.drop_request, "PUT /lfs/"),
    (Kind.error_500, "POST .*/commit/"),
    (Kind.drop_request, "POST .*/commit/"),
]
SILENCE = [(Kind.stall, "POST /api/repos/create"), (Kind.stall, "PUT /lfs/"), (Kind.stall, "POST .*/commit/")]


@pytest.mark.parametrize(("kind", "pattern"), FAULTS + SILENCE)
def test_after_a_lasting_fault_the_old_revision_is_whole_and_repeating_publishes(
    run, hub, hub_api, kind, pattern, monkeypatch
):
    publish(upload_plan(run, REPO), REPO, api=hub_api)
    old = hub.files(REPO)
    new = changed(run)
    fault = hub.plan(kind, pattern, times=99)
    with monkeypatch.context() as impatient:
        if kind is Kind.stall:
            for name in ("ANSWER_SECONDS", "COMMIT_SECONDS"):
                impatient.setattr(f"synco_hub.hub.publication.publish.{name}", 0.3)
        with pytest.raises(
            OSError, match=r"publishing tester/my-vit: .*(Nothing was published).*[Rr]epeat the command"
        ):
            publish(upload_plan(run, REPO), REPO, api=hub_api)
    assert fault.seen >= 1
    assert hub.files(REPO) == old
    hub.application.planned.clear()
    publish(upload_plan(run, REPO), REPO, api=hub_api)
    assert {path: content for path, content in hub.files(REPO).items() if path in new} == new
    fault.released.set()


@pytest.mark.parametrize(("kind", "pattern"), [fault for fault in FAULTS if "commit" not in fault[1]][1:])
def test_a_passing_fault_is_overcome(run, hub, hub_api, kind, pattern):
    hub.plan(kind, pattern)
    publish(upload_plan(run, REPO), REPO, api=hub_api)
    assert hub.files(REPO)["model.safetensors"] == (run / "model.safetensors").read_bytes()


def test_a_lost_answer_is_no_failure_when_the_commit_has_arrived(run, hub, hub_api):
    publish(upload_plan(run, REPO), REPO, api=hub_api)
    new = changed(run)
    hub.plan(Kind.drop_answer, "POST .*/commit/")
    published = publish(upload_plan(run, REPO), REPO, api=hub_api)
    assert published.commit == hub_api.model_info(REPO).sha
    assert {path: content for path, content in hub.files(REPO).items() if path in new} == new
    assert len(hub.store.repositories["model", REPO].revisions) == 3


def test_somebody_elses_commit_in_between_is_not_overwritten(run, hub, hub_api, monkeypatch):
    publish(upload_plan(run, REPO), REPO, api=hub_api)
    changed(run)
    upload = type(hub_api).preupload_lfs_files

    def interrupted(self, *args, **kwargs):
        monkeypatch.setattr(type(hub_api), "preupload_lfs_files", upload)
        hub_api.upload_file(repo_id=REPO, path_in_repo="note.txt", path_or_fileobj=b"mine")
        return upload(self, *args, **kwargs)

    monkeypatch.setattr(type(hub_api), "preupload_lfs_files", interrupted)
    with pytest.raises(OSError, match="somebody else changed the repository meanwhile"):
        publish(upload_plan(run, REPO), REPO, api=hub_api)
    assert "note.txt" in hub.files(REPO)


def test_private_repositories_and_wrong_names(run, hub, hub_api):
    publish(upload_plan(run, REPO), REPO, private=True, api=hub_api)
    assert hub.store.repositories["model", REPO].private
    with pytest.raises(ValueError, match="has not the form organisation/name"):
        publish(upload_plan(run, REPO), "my-vit", api=hub_api)
    with pytest.raises(
        ValueError, match="the card says to load 'tester/my-vit', but people will find it as 'tester/x'"
    ):
        upload_plan(run, "tester/x")


def test_without_a_token_nothing_is_written(run, hub):
    from huggingface_hub import HfApi

    with pytest.raises(OSError, match=r"hf auth login"):
        publish(upload_plan(run, REPO), REPO, api=HfApi(endpoint=hub.url, token=False))
    assert hub.files(REPO) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "may be a pickle"),
        ("last.pth", "may be a pickle"),
        (".env", "looks like a secret"),
        ("holiday.jpg", "is not expected"),
        ("notes.py", "is not expected"),
        ("data/photo.jpg", "the folder data/ is not expected"),
        ("other.json", "is not expected"),
        ("results/notes.json", "results/notes.json is no result of this package"),
    ],
)
def test_what_does_not_belong_there_is_refused_by_name(run, name, message):
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("{}")
    with pytest.raises(ValueError, match=f"not fit to be published: .*{message}"):
        upload_plan(run, REPO)


def test_weights_that_do_not_fit_the_config_are_refused(run):
    tensors = load_file(run / "model.safetensors")
    del tensors["backbone.norm.weight"]
    save_file(tensors, run / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights are not those of config.json \(1 missing: backbone.norm.weight\)"):
        upload_plan(run, REPO)


def test_links_out_of_the_directory_are_refused(run, tmp_path):
    (tmp_path / "LICENSE").write_text("secret")
    (run / "LICENSE").symlink_to(tmp_path / "LICENSE")
    with pytest.raises(ValueError, match="LICENSE is a link out of the directory"):
        upload_plan(run, REPO)


def test_a_linked_folder_is_refused(run, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (run / "results").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="the folder results/ is a link"):
        upload_plan(run, REPO)


def test_every_problem_is_named_at_once_and_the_model_code_is_the_packages_own(run):
    (run / "modeling_synco.py").write_text("raise SystemExit")
    assert upload_plan(run, REPO).files["modeling_synco.py"] != run / "modeling_synco.py"
    (run / "preprocessor_config.json").unlink()
    (run / "conversion_report.json").write_text(json.dumps({"clean": False, "leftover": ["a"], "missing": []}))
    (run / "README.md").unlink()
    with pytest.raises(
        ValueError, match=r"preprocessor_config\.json is missing: .*; .* is not clean.*; there is no card"
    ):
        upload_plan(run, REPO)
    with pytest.raises(ValueError, match="is no folder"):
        upload_plan(run / "nothing", REPO)


@pytest.mark.parametrize("name", ["../x", "tester/..", "tester/a b", "tester/.git", "tester/-x", "a\nb/c"])
def test_names_that_the_hub_does_not_allow_are_refused_before_anything_else(tmp_path, name):
    with pytest.raises(ValueError, match="is no name that the Hub allows"):
        upload_plan(tmp_path, name)
