"""What a visitor types is asked for as a stranger would, is bounded in size and time, and leaves nothing."""

import json
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants
from loopback_hub.faults import Kind
from loopback_hub.repositories import StoredFile
from loopback_hub.server import TOKEN

from space_app import model_cache, typed_models
from space_app.model_cache import MOST_TYPED_WAITING, ModelCache
from synco_hub.hub.pull import install_checkpoint


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def operated_hub(hub, monkeypatch, tmp_path):
    """A Hub to which this process is logged in twice, by the environment and by a stored token, with every request."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr("huggingface_hub.hf_api.ENDPOINT", hub.url, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    (tmp_path / "hf-home").mkdir()
    (tmp_path / "hf-home" / "token").write_text(TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "hf-home" / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return hub


@pytest.fixture
def offer(operated_hub, save_checkpoint, tmp_path):
    """Puts a tiny network on the Hub."""

    def put(name, private=False, **further):
        folder = Path(save_checkpoint(tmp_path / "made" / name.replace("/", "-")))
        files = {file.name: file.read_bytes() for file in folder.iterdir()} | further
        repository = operated_hub.store.create("model", name, private)
        stored = {path: StoredFile(content, path.endswith(".safetensors")) for path, content in files.items()}
        operated_hub.store.large_files.update({file.sha256: file.content for file in stored.values() if file.large})
        repository.commit("files", stored, set())
        return name

    return put


def with_token(hub, name=""):
    """The requests that carried credentials."""
    return [line for line, headers in hub.application.headers if "authorization" in headers and name in line]


def test_what_only_the_operator_can_read_is_not_there_for_a_visitor(operated_hub, offer):
    offer("lab/private", private=True)
    cache = ModelCache()
    with pytest.raises(ValueError, match=r"lab/private was not found on the Hub: .* is private"):
        cache.get("lab/private")
    assert any("lab/private" in line for line in operated_hub.requests)
    assert with_token(operated_hub) == []
    assert "lab/private" not in cache


def test_also_when_the_operator_has_it_on_his_disk(operated_hub, offer, tmp_path, save_checkpoint):
    offer("lab/private", private=True)
    HfApi(endpoint=operated_hub.url, token=TOKEN).snapshot_download("lab/private")
    install_checkpoint(Path(save_checkpoint(tmp_path / "run")), "our-secret")
    before = len(with_token(operated_hub))
    cache = ModelCache([save_checkpoint(tmp_path / "public")])
    with pytest.raises(ValueError, match="was not found on the Hub"):
        cache.get("lab/private")
    with pytest.raises(ValueError, match="our-secret is not offered here"):
        cache.get("our-secret")
    assert len(with_token(operated_hub)) == before


def test_a_public_one_is_asked_for_without_credentials_and_leaves_nothing(operated_hub, offer, tmp_path):
    offer("lab/public")
    cache = ModelCache()
    model, processor = cache.get("lab/public")
    assert processor.crop_size["height"] == 32
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert any("/resolve/" in line and "model.safetensors" in line for line in operated_hub.requests)
    assert with_token(operated_hub) == []
    assert list((tmp_path / "temporary").iterdir()) == []
    assert not [path for path in (tmp_path / "hf-cache").rglob("*") if path.is_file()]
    assert [path.name for path in (tmp_path / "hf-home").iterdir()] == ["token"]


def test_what_the_operator_offers_may_be_private(operated_hub, offer):
    offer("lab/private", private=True)
    cache = ModelCache(["lab/private"])
    assert cache.get("lab/private")[1].crop_size["height"] == 32
    assert with_token(operated_hub, "lab/private")


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "detr", "backbone": "lab/private", "backbone_config": None},
        {"model_type": "maskformer", "inner": [{"backbone": "lab/private"}]},
        {"model_type": "timm_wrapper", "architecture": "hf-hub:lab/private"},
        {"model_type": "timm_wrapper", "architecture": "local-dir:/etc"},
    ],
)
def test_a_configuration_that_names_another_repository_is_refused(operated_hub, offer, config):
    offer("lab/private", private=True)
    offer("stranger/trap", **{"config.json": json.dumps(config).encode()})
    with pytest.raises(ValueError, match=r"stranger/trap cannot be shown: its config.json takes its"):
        ModelCache().get("stranger/trap")
    assert with_token(operated_hub) == []
    assert not any("lab/private" in line for line in operated_hub.requests)


def test_heads_and_adapters_that_name_another_repository_are_not_read(operated_hub, offer):
    offer("lab/private", private=True)
    other = {"model": "lab/private", "base_model_name_or_path": "lab/private", "class_names": [], "multi_label": False}
    content = json.dumps(other).encode()
    offer("stranger/head", **{"linear_head.json": content, "adapter_config.json": content})
    ModelCache().get("stranger/head")
    assert not any("lab/private" in line or "head.json" in line for line in operated_hub.requests)


def test_typed_models_do_not_push_offered_ones_out(operated_hub, offer, tmp_path, save_checkpoint):
    cache = ModelCache([save_checkpoint(tmp_path / name) for name in "ab"], keep=4)
    kept = [cache.get(name)[0] for name in "ab"]
    for number in range(3):
        cache.get(offer(f"lab/typed{number}"))
    assert [cache.get(name)[0] for name in "ab"] == kept
    assert [f"lab/typed{number}" in cache for number in range(3)] == [False, True, True]


def start(function, *arguments):
    """Run in a thread; gives the thread, and the list in which the answer comes."""
    answers = []

    def run():
        try:
            answers.append(function(*arguments))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_nobody_waits_for_anothers_download_and_two_share_one(operated_hub, offer, tmp_path, save_checkpoint):
    offer("lab/slow")
    fault = operated_hub.plan(Kind.stall, "GET /cdn/", times=9)
    cache = ModelCache([save_checkpoint(tmp_path / name) for name in ("ready", "new")])
    ready = cache.get("ready")
    slow = [start(cache.get, "lab/slow") for _ in range(2)]
    wait_for(lambda: fault.seen)
    for name in ("ready", "new"):
        thread, answers = start(cache.get, name)
        thread.join(30)
        assert answers, f"{name} waits for another's download"
    assert cache.get("ready") is ready
    assert not any(answers for _, answers in slow)
    fault.released.set()
    for thread, _ in slow:
        thread.join(60)
    assert slow[0][1][0] is slow[1][1][0]
    assert isinstance(slow[0][1][0], tuple)
    assert fault.seen == 1


def test_nor_for_the_slow_download_of_an_offered_one(operated_hub, offer, tmp_path, save_checkpoint):
    offer("lab/slow")
    fault = operated_hub.plan(Kind.stall, "lab/slow/resolve/", times=99)
    cache = ModelCache(["lab/slow", save_checkpoint(tmp_path / "ready")])
    slow, waiting = start(cache.get, "lab/slow")
    wait_for(lambda: fault.seen)
    thread, answers = start(cache.get, "ready")
    thread.join(30)
    assert answers
    assert not waiting
    fault.released.set()
    slow.join(60)
    assert isinstance(waiting[0], tuple)


def test_a_typed_name_has_a_time_limit_and_leaves_nothing(operated_hub, offer, tmp_path):
    offer("lab/slow")
    fault = operated_hub.plan(Kind.stall, "GET /cdn/", times=9)
    cache = ModelCache(typed_seconds=5)
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"lab/slow did not arrive within 5 seconds, the limit here: try again later"):
        cache.get("lab/slow")
    assert time.monotonic() - began < 30
    assert list((tmp_path / "temporary").iterdir()) == []
    fault.released.set()
    operated_hub.application.planned.clear()
    assert "lab/slow" not in cache
    ModelCache(typed_seconds=60).get("lab/slow")


def test_typed_names_leave_places_for_offered_ones(monkeypatch, tmp_path, save_checkpoint):
    released, begun = threading.Event(), []

    def wait(name, seconds):
        begun.append(name)
        released.wait(60)
        raise ValueError("released")

    monkeypatch.setattr(model_cache, "fetch_typed_model", wait)
    cache = ModelCache([save_checkpoint(tmp_path / "ready")])
    waiting = [start(cache.get, f"lab/slow{number}") for number in range(MOST_TYPED_WAITING)]
    wait_for(lambda: len(begun) == MOST_TYPED_WAITING)
    with pytest.raises(ValueError, match=r"visitors wait for typed models already\. Try again in a minute"):
        cache.get("lab/one-more")
    cache.get("ready")
    released.set()
    for thread, answers in waiting:
        thread.join(60)
        assert str(answers[0]) == "released"
    with pytest.raises(ValueError, match="released"):
        cache.get("lab/one-more")


def answering(monkeypatch, *files):
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files]
    monkeypatch.setattr(HfApi, "model_info", lambda *_, **__: SimpleNamespace(siblings=siblings, sha="0" * 40))
    loaded = []
    monkeypatch.setattr(typed_models, "_download", lambda *arguments: loaded.append(arguments))
    return loaded


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("pytorch_model.bin", 1000)], "no model.safetensors"),
        ([("model-00001-of-00002.safetensors", 1000)], "no model.safetensors"),
        ([("model.safetensors", 3 * 1024**3)], r"3\.2 GB of weights, the limit here is 2\.1 GB"),
    ],
)
def test_hub_repositories_are_measured_before_they_are_downloaded(monkeypatch, files, message):
    loaded = answering(monkeypatch, *files)
    with pytest.raises(ValueError, match=message):
        ModelCache().get("someone/something")
    assert loaded == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no preprocessor_config.json at /root/.cache"), "someone/something could not be loaded from the Hub"),
        (ValueError("model type `x` is unknown\nand more lines"), "cannot be shown: model type `x` is unknown$"),
        (ImportError("needs detectron"), "cannot be shown: needs detectron"),
    ],
)
def test_what_the_library_says_becomes_one_line(monkeypatch, error, message):
    answering(monkeypatch, ("model.safetensors", 1000))

    def fail(_):
        raise error

    monkeypatch.setattr(typed_models, "_check_configuration", lambda *_: None)

    monkeypatch.setattr(model_cache, "load_with_head", fail)
    with pytest.raises(ValueError, match=message) as said:
        ModelCache().get("someone/something")
    assert "/root" not in str(said.value)
    assert "someone/something" not in ModelCache()


def test_a_private_or_unknown_repository_is_one_sentence(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("401 with a token")

    monkeypatch.setattr(HfApi, "model_info", refuse)
    with pytest.raises(ValueError, match="does not exist, is private, or the Hub cannot be reached") as said:
        ModelCache().get("someone/secret")
    assert "token" not in str(said.value)
