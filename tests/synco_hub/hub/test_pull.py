import pytest
import torch
from loopback_hub.faults import Kind
from transformers import AutoImageProcessor, AutoModel

from synco_hub.hub.pull import pull
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.zoo import checkpoint_directory, home_directory, list_models

REPO = "tester/synco-v2-vit-nano"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def upload(api, folder, seed: int, repo: str = REPO, private: bool = False, **config) -> SynCoModel:
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig(**{"backbone": "vit-nano"} | config))
    model.save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    (folder / "optimizer.pt").write_bytes(b"a pickle")
    api.create_repo(repo, private=private, exist_ok=True)
    api.upload_folder(repo_id=repo, folder_path=folder)
    return model


def same_weights(one, other) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_a_short_name_is_pulled_from_the_given_repository_and_listed_with_its_revision(hub_api, tmp_path):
    model = upload(hub_api, tmp_path / "run", seed=0)
    head = hub_api.model_info(REPO).sha
    pulled = pull("synco-v2-vit-nano", REPO, api=hub_api)
    assert (pulled.name, pulled.repo_id, pulled.commit) == ("synco-v2-vit-nano", REPO, head)
    assert pulled.directory == checkpoint_directory("synco-v2-vit-nano")
    assert same_weights(AutoModel.from_pretrained("synco-v2-vit-nano"), model)
    assert AutoImageProcessor.from_pretrained("synco-v2-vit-nano").crop_size["height"] == 32
    assert not (pulled.directory / "optimizer.pt").exists()
    row = {row.name: row for row in list_models()}["synco-v2-vit-nano"]
    assert (row.source, row.revision, row.installed) == (REPO, head, str(pulled.directory))
    assert not list((home_directory() / "pulling").iterdir())


def test_a_revision_pins_the_old_weights(hub_api, tmp_path):
    old = upload(hub_api, tmp_path / "old", seed=0)
    commit = hub_api.model_info(REPO).sha
    new = upload(hub_api, tmp_path / "new", seed=1)
    assert same_weights(AutoModel.from_pretrained(str(pull(REPO, api=hub_api).directory)), new)
    assert same_weights(AutoModel.from_pretrained(str(pull(REPO, revision=commit, api=hub_api).directory)), old)
    with pytest.raises(OSError, match="no such revision: give a branch"):
        pull(REPO, revision="of-no-time", api=hub_api)


@pytest.mark.parametrize(("kind", "times"), [(Kind.corrupt, 1), (Kind.truncate, 99), (Kind.error_500, 99)])
def test_a_damaged_download_installs_nothing_and_keeps_what_is_there(hub, hub_api, tmp_path, kind, times):
    old = upload(hub_api, tmp_path / "old", seed=0)
    pull(REPO, api=hub_api)
    new = upload(hub_api, tmp_path / "new", seed=1)
    fault = hub.plan(kind, "GET /cdn/", times)
    with pytest.raises(OSError, match=r"Nothing was installed; repeat the command"):
        pull(REPO, api=hub_api)
    assert fault.seen >= 1
    assert same_weights(AutoModel.from_pretrained("synco-v2-vit-nano"), old)
    hub.application.planned.clear()
    pull(REPO, api=hub_api)
    assert same_weights(AutoModel.from_pretrained("synco-v2-vit-nano"), new)


def test_small_files_are_checked_too(hub, hub_api, tmp_path):
    upload(hub_api, tmp_path / "run", seed=0)
    hub.plan(Kind.corrupt, "GET /.*/preprocessor_config.json")
    with pytest.raises(OSError, match=r"preprocessor_config\.json arrived with a wrong checksum"):
        pull(REPO, api=hub_api)
    assert not checkpoint_directory("synco-v2-vit-nano").exists()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Kind.stall, "the connection failed"),
        (Kind.truncate, "the connection failed"),
        (Kind.error_500, "the Hub answered 500"),
    ],
)
def test_a_hub_that_answers_late_or_badly_is_one_line(hub, hub_api, tmp_path, monkeypatch, kind, says):
    upload(hub_api, tmp_path / "run", seed=0)
    monkeypatch.setattr("synco_hub.hub.pull.ANSWER_SECONDS", 0.3)
    hub.plan(kind, "GET /api/models/")
    with pytest.raises(OSError, match=rf"pulling {REPO}: {says}.*Nothing was installed; repeat the command"):
        pull(REPO, api=hub_api)
    monkeypatch.setattr("synco_hub.hub.pull.ANSWER_SECONDS", 30)
    assert pull(REPO, api=hub_api).repo_id == REPO


def test_one_broken_connection_heals_itself(hub, hub_api, tmp_path):
    model = upload(hub_api, tmp_path / "run", seed=0)
    hub.plan(Kind.truncate, "GET /cdn/")
    assert same_weights(AutoModel.from_pretrained(str(pull(REPO, api=hub_api).directory)), model)


def test_a_private_repository_needs_the_token(hub, hub_api, tmp_path):
    from huggingface_hub import HfApi

    upload(hub_api, tmp_path / "run", seed=0, private=True)
    with pytest.raises(OSError, match=r"private and the token does not allow it.*hf auth login"):
        pull(REPO, api=HfApi(endpoint=hub.url, token=False))
    assert pull(REPO, api=hub_api).repo_id == REPO


def test_a_short_name_never_hides_another_network(hub_api, tmp_path):
    upload(hub_api, tmp_path / "run", seed=0)
    with pytest.raises(ValueError, match="has backbone 'vit-nano', but 'synco-v2-deit-s' means 'deit-s'"):
        pull("synco-v2-deit-s", REPO, api=hub_api)
    upload(hub_api, tmp_path / "moby", seed=0, pretraining={"method": "moby"})
    with pytest.raises(ValueError, match="has method 'moby'"):
        pull("synco-v2-vit-nano", REPO, api=hub_api)
    assert not (home_directory() / "checkpoints").exists()


def test_pickles_alone_are_no_checkpoint(hub_api, tmp_path):
    hub_api.create_repo(REPO)
    for name, content in (("config.json", b"{}"), ("pytorch_model.bin", b"a pickle"), ("sub/model.safetensors", b"")):
        hub_api.upload_file(repo_id=REPO, path_in_repo=name, path_or_fileobj=content or b"x")
    with pytest.raises(ValueError, match=r"no checkpoint that can be installed.*pytorch_model\.bin"):
        pull(REPO, api=hub_api)


@pytest.mark.parametrize("config", [b"[]", b"{", b'{"pretraining": 3}', b"[" * 100_000])
def test_a_configuration_that_is_none_is_refused(hub_api, config):
    hub_api.create_repo(REPO)
    for name, content in (("config.json", config), ("model.safetensors", b"x")):
        hub_api.upload_file(repo_id=REPO, path_in_repo=name, path_or_fileobj=content)
    with pytest.raises(ValueError, match=r"its config\.json is no configuration"):
        pull(REPO, api=hub_api)
    assert not list((home_directory() / "pulling").iterdir())


@pytest.mark.parametrize("weights", [b"x", b"\x02" + bytes(7) + b"{}"])
def test_weights_that_are_none_replace_nothing(hub_api, weights):
    hub_api.create_repo(REPO)
    for name, content in (("config.json", b'{"backbone": "vit-nano"}'), ("model.safetensors", weights)):
        hub_api.upload_file(repo_id=REPO, path_in_repo=name, path_or_fileobj=content)
    with pytest.raises(ValueError, match=r"its model\.safetensors (is no whole|holds no weights).*was installed"):
        pull(REPO, api=hub_api)
    assert not (home_directory() / "checkpoints").exists()
    assert not list((home_directory() / "pulling").iterdir())


def test_weights_of_another_network_than_the_configs_are_not_installed(hub_api, tmp_path):
    upload(hub_api, tmp_path / "run", seed=0)
    config = (tmp_path / "run" / "config.json").read_text().replace('"depth": 3', '"depth": 2')
    hub_api.upload_file(repo_id=REPO, path_in_repo="config.json", path_or_fileobj=config.encode())
    with pytest.raises(
        ValueError, match=rf"{REPO} is no checkpoint.*left over: backbone\.blocks\.2.*Nothing was inst"
    ):
        pull(REPO, api=hub_api)
    assert not (home_directory() / "checkpoints").exists()
    assert not list((home_directory() / "pulling").iterdir())


@pytest.mark.parametrize("sha", ["../../elsewhere", None, "", "0" * 39 + "/"])
def test_a_commit_that_is_none_never_becomes_a_path(hub_api, tmp_path, monkeypatch, sha):
    upload(hub_api, tmp_path / "run", seed=0)
    answer = type(hub_api).model_info

    def forged(self, *args, **kwargs):
        info = answer(self, *args, **kwargs)
        info.sha = sha
        return info

    monkeypatch.setattr(type(hub_api), "model_info", forged)
    with pytest.raises(OSError, match="the Hub's answer names no commit"):
        pull(REPO, api=hub_api)
    assert not home_directory().exists()


@pytest.mark.parametrize(
    ("name", "repo", "message"),
    [
        ("synco-v2-deit-s", None, "has not published 'synco-v2-deit-s'.*synco-hub convert.*--from organisation/name"),
        ("byol-swin-t", None, "has not published 'byol-swin-t': to have it, pretrain it"),
        ("synco-v2-deit", None, "no short name of the zoo.*Did you mean synco-v2-deit-s"),
        ("../../etc", None, "is not a checkpoint name|no repository"),
        ("organisation/..", None, "is not a checkpoint name"),
        ("synco-v2-deit-s", "no-organisation", "is no repository of the Hub"),
    ],
)
def test_bad_names_are_refused_before_the_network(name, repo, message):
    with pytest.raises(ValueError, match=message):
        pull(name, repo, api=None)


def test_nothing_there_is_one_clear_line(hub_api):
    with pytest.raises(OSError, match="pulling tester/nothing: there is no such repository"):
        pull("tester/nothing", api=hub_api)
    assert all(row.source is None for row in list_models())
