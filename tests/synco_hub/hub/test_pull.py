import errno
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from loopback_hub.faults import Kind
from transformers import AutoImageProcessor, AutoModel

from synco_hub.hub import pull as pulling
from synco_hub.hub.pull import install_checkpoint, pull
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


def test_what_is_not_as_the_hub_has_it_is_named(hub_api, tmp_path, monkeypatch):
    """Of the same length, shorter, longer, absent, or left out of the Hub's list: each of them is unproven."""
    upload(hub_api, tmp_path / "run", seed=0)
    info = hub_api.model_info(REPO, files_metadata=True)
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    files = [file for file in info.siblings if file.rfilename in names]

    def wrong():
        return pulling._find_wrong_files(hub_api, REPO, info.sha, files, tmp_path / "run")

    assert wrong() == []
    for name in names:
        path = tmp_path / "run" / name
        whole = path.read_bytes()
        for other in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:-1], whole + b"x"):
            path.write_bytes(other)
            assert wrong() == [name]
        path.unlink()
        assert wrong() == [name]
        path.write_bytes(whole)
    listed = type(hub_api).list_repo_tree
    monkeypatch.setattr(
        type(hub_api),
        "list_repo_tree",
        lambda *args, **kwargs: [entry for entry in listed(*args, **kwargs) if entry.path != "config.json"],
    )
    assert wrong() == ["config.json"]


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
        ("synco-v2-deit", None, "no short name of the zoo.*Did you mean 'synco-v2-deit-s'"),
        ("../../etc", None, "is not a checkpoint name|no repository"),
        ("organisation/..", None, "is not a checkpoint name"),
        ("organisation/net@4fa1c0d", None, "give organisation/net and --revision 4fa1c0d"),
        ("synco-v2-deit-s", "organisation/net@v1", "give organisation/net and --revision v1"),
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


def checkpoint(directory, seed: int) -> SynCoModel:
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig(backbone="vit-nano"))
    model.save_pretrained(directory)
    (directory / "optimizer.pt").write_text("large and of no use")
    return model


def test_an_installed_checkpoint_loads_by_name_and_is_replaced_whole(tmp_path):
    for seed in (0, 1):
        model = checkpoint(tmp_path / f"run{seed}", seed)
        install_checkpoint(tmp_path / f"run{seed}", "my-vit")
        loaded = AutoModel.from_pretrained("my-vit")
        assert torch.equal(loaded.backbone.norm.weight, model.backbone.norm.weight)
        assert torch.equal(loaded.backbone.patch_embed.proj.weight, model.backbone.patch_embed.proj.weight)
    directory = checkpoint_directory("my-vit")
    assert not (directory / "optimizer.pt").exists()
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]
    assert "my-vit" in [row.name for row in list_models() if row.installed]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_who_may_read_what_is_installed_is_said_by_the_umask(tmp_path, umask):
    checkpoint(tmp_path / "run", 0)
    (tmp_path / "run" / "model.safetensors").chmod(0o600)
    (tmp_path / "run" / "config.json").chmod(0o664)
    before = os.umask(umask)
    try:
        for _ in ("new", "replaced"):
            directory = install_checkpoint(tmp_path / "run", "my-vit")
            written = {path.name: oct(path.stat().st_mode & 0o777) for path in directory.iterdir()}
            assert {"model.safetensors", "config.json"} <= set(written)
            assert set(written.values()) == {oct(0o666 & ~umask)}, written
            (directory / "model.safetensors").chmod(0o600)  # as an earlier version left it
    finally:
        os.umask(before)


def test_what_is_no_checkpoint_or_no_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        install_checkpoint(tmp_path, "my-vit")
    checkpoint(tmp_path / "run", 0)
    with pytest.raises(ValueError, match="not a checkpoint name"):
        install_checkpoint(tmp_path / "run", "../outside")
    assert not (tmp_path / "outside").exists()


def test_where_it_came_from_is_noted_and_a_broken_note_is_passed_over(tmp_path):
    checkpoint(tmp_path / "run", 0)
    directory = install_checkpoint(tmp_path / "run", "my-vit")
    rows = {row.name: row for row in list_models()}
    assert (rows["my-vit"].source, rows["my-vit"].revision) == (str(tmp_path / "run"), None)
    install_checkpoint(tmp_path / "run", "my-vit", {"source": "somebody/it", "revision": "abc"})
    rows = {row.name: row for row in list_models()}
    assert (rows["my-vit"].source, rows["my-vit"].revision) == ("somebody/it", "abc")
    for broken in ("{", "[]", '"text"'):
        (directory / "installed_from.json").write_text(broken)
        assert {row.name: row for row in list_models()}["my-vit"].source is None


@pytest.mark.parametrize("spoil", ["config", "weights", "garbage"])
def test_weights_that_do_not_fit_replace_nothing(tmp_path, spoil):
    checkpoint(tmp_path / "good", 0)
    installed = install_checkpoint(tmp_path / "good", "my-vit")
    before = (installed / "config.json").read_bytes(), (installed / "model.safetensors").read_bytes()
    run = tmp_path / "run"
    checkpoint(run, 1)
    if spoil == "config":
        (run / "config.json").write_text((run / "config.json").read_text().replace('"depth": 3', '"depth": 2'))
    elif spoil == "weights":
        (run / "model.safetensors").rename(run / "linear_head.safetensors")
    else:
        (run / "model.safetensors").write_bytes(b"x")
    message = {"config": "14 left over|12 left over", "weights": "no model.safetensors", "garbage": "cannot be read"}
    with pytest.raises(ValueError, match=f"{message[spoil]}.*Nothing was installed"):
        install_checkpoint(run, "my-vit")
    assert before == ((installed / "config.json").read_bytes(), (installed / "model.safetensors").read_bytes())


def test_two_at_once_take_turns_at_the_place(tmp_path, monkeypatch):
    """The first is held at its last step until the second has had a second's time to come there too."""
    for seed in (0, 1):
        checkpoint(tmp_path / f"run{seed}", seed)
    rename, both = Path.rename, threading.Barrier(2)

    def held(path, target):
        if path.name == "new":
            with suppress(threading.BrokenBarrierError):
                both.wait(timeout=1)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", held)
    with ThreadPoolExecutor(2) as threads:
        runs = [threads.submit(install_checkpoint, tmp_path / f"run{seed}", "my-vit") for seed in (0, 1)]
        directory, other = (run.result(timeout=60) for run in runs)
    assert directory == other == checkpoint_directory("my-vit")
    source = Path({row.name: row for row in list_models()}["my-vit"].source)
    assert (directory / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]


def killed_between_its_two_renames(directory):
    """What is on disk then: the old one moved away, the new one not yet in its place."""
    beside = directory.with_name(f".installing-{directory.name}")
    (beside / "new").mkdir(parents=True)
    (beside / "new" / "config.json").write_text("{")
    directory.rename(beside / "old")


def test_the_next_installation_tidies_up_after_a_killed_one(tmp_path):
    checkpoint(tmp_path / "old", 0)
    new = checkpoint(tmp_path / "new", 1)
    directory = install_checkpoint(tmp_path / "old", "my-vit")
    killed_between_its_two_renames(directory)
    assert install_checkpoint(tmp_path / "new", "my-vit") == directory
    assert torch.equal(AutoModel.from_pretrained("my-vit").backbone.norm.weight, new.backbone.norm.weight)
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]


@pytest.mark.parametrize("killed_before", [False, True])
@pytest.mark.parametrize("fails", ["copy", "rename"])
def test_a_disk_that_fails_leaves_the_old_one_installed(tmp_path, monkeypatch, fails, killed_before):
    old = checkpoint(tmp_path / "old", 0)
    checkpoint(tmp_path / "new", 1)
    directory = install_checkpoint(tmp_path / "old", "my-vit")
    if killed_before:
        killed_between_its_two_renames(directory)
    rename = Path.rename

    def full(*paths):
        raise OSError(errno.ENOSPC, "No space left on device", str(paths[-1]))

    with monkeypatch.context() as patched:
        if fails == "copy":
            patched.setattr(shutil, "copyfile", full)
        else:
            patched.setattr(Path, "rename", lambda a, b: full(a, b) if a.name == "new" else rename(a, b))
        with pytest.raises(OSError, match="No space left"):
            install_checkpoint(tmp_path / "new", "my-vit")
    loaded = AutoModel.from_pretrained("my-vit")
    assert torch.equal(loaded.backbone.patch_embed.proj.weight, old.backbone.patch_embed.proj.weight)
    assert [path.name for path in directory.parent.iterdir()] == ["my-vit"]
