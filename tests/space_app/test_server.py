"""A launched app and real clients: results, messages, files, bounds. One module: gradio takes long to import."""

import concurrent.futures
import io
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from space_app.app import build_app, launch
from space_app.model_cache import ModelCache
from space_app.views import ResultCache, Selection
from synco_hub.models import SynCoForImageClassification
from synco_hub.visualization import attention_maps, overlay, prepared_image, token_map


@dataclass
class Running:
    client: Any
    folder: Path
    vit: str
    swin: str
    picture: Path
    models: ModelCache
    directories: list[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory, save_checkpoint) -> Iterator[Running]:
    # gradio's client leaves an empty folder there for each picture that it fetches.
    tempfile.tempdir, temporary = str(tmp_path_factory.mktemp("fetched")), tempfile.tempdir
    checkpoints = tmp_path_factory.mktemp("models")
    names = [save_checkpoint(checkpoints / f"random-{backbone}", backbone) for backbone in ("vit-nano", "swin-nano")]
    folder = tmp_path_factory.mktemp("app")
    picture = tmp_path_factory.mktemp("pictures") / "noise.png"
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(picture)
    before = os.environ.get("GRADIO_TEMP_DIR")
    models = ModelCache(names, keep=2)
    page = build_app(models, folder)
    launch(page, port=0, prevent_thread_lock=True, quiet=True)
    client = Client(page.local_url, verbose=False, download_files=str(tmp_path_factory.mktemp("results")))
    yield Running(client, folder, *models.offered, picture, models, names)
    page.close()
    tempfile.tempdir = temporary
    if before is None:
        os.environ.pop("GRADIO_TEMP_DIR")
    else:
        os.environ["GRADIO_TEMP_DIR"] = before


def attention(running: Running, path: Any, model: Any = None, **changed: Any) -> Any:
    settings = {"kind": "[CLS], mean of the heads", "head": 1, "mass": 1.0, "strength": 0.6, "detail": 1} | changed
    return running.client.predict(
        handle_file(str(path)) if isinstance(path, (str, Path)) else path,
        [running.vit] if model is None else model,
        settings["detail"],
        settings["kind"],
        settings["head"],
        settings["mass"],
        settings["strength"],
        api_name="/attention",
    )


def shown(entry: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(entry["image"]).convert("RGB")) / 255


def test_the_api_names_its_endpoints(running):
    endpoints = running.client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/attention", "/tokens", "/segments", "/gradients", "/compare"}


def test_the_api_names_its_arguments(running):
    endpoints = running.client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    names = {
        endpoint: [argument["parameter_name"] for argument in about["parameters"]]
        for endpoint, about in endpoints.items()
    }
    assert names == {
        "/attention": ["picture", "models", "detail", "attention", "head", "mass", "strength"],
        "/tokens": ["picture", "models", "detail", "tokens", "across", "down", "strength"],
        "/segments": ["picture", "models", "detail", "points", "strength"],
        "/gradients": ["picture", "models", "detail", "gradients", "mass", "strength"],
        "/compare": ["picture", "other", "models"],
    }


@pytest.mark.parametrize(("detail", "mass"), [(1, 1.0), (2, 0.5)])
def test_attention_is_what_the_package_draws(running, detail, mass):
    entry = attention(running, running.picture, detail=detail, mass=mass)[0]
    network, processor = running.models.get(running.vit)
    prepared = prepared_image(Image.open(running.picture), processor, detail, 384)
    maps = attention_maps(network, prepared.pixel_values)
    maps = (maps if mass == 1 else maps.thresholded(mass)).upsampled(prepared.shown.shape[:2])
    expected = overlay(prepared.shown, maps.cls[0], 0.6)
    assert np.abs(shown(entry) - expected).mean() < 0.02  # the server compresses
    assert "[CLS] attention, mean of the heads" in entry["caption"]


def test_every_view_of_both_families(running):
    picture, both = handle_file(str(running.picture)), [running.vit, running.swin]
    results = []
    for kind in ("similarity to one patch", "principal components", "foreground"):
        results.append(running.client.predict(picture, both, 1, kind, 0.1, 0.9, 0.6, api_name="/tokens"))
        assert len(results[-1]) == 2
    assert "row 4 of 4, column 1 of 4" in results[0][0]["caption"]
    results.append(running.client.predict(picture, both, 1, "1 0.1 0.1\n2 0.9 0.5", 0.6, api_name="/segments"))
    assert all("2 points of classes 1, 2" in entry["caption"] for entry in results[-1])
    for kind in ("Grad-CAM", "saliency"):
        results.append(running.client.predict(picture, both, 1, kind, 1.0, 0.6, api_name="/gradients"))
        assert all("norm of the feature" in entry["caption"] for entry in results[-1])
    windows = running.client.predict(picture, both, 1, "windowed attention", 1.0, 0.6, api_name="/gradients")
    assert len(windows) == 1
    for kind in ("[CLS], one head", "patch self-attention", "rollout through all blocks"):
        results.append(attention(running, running.picture, kind=kind, head=2))
    for first, second in itertools.pairwise(results):
        assert np.abs(shown(first[0]) - shown(second[0])).mean() > 1e-3
    said = running.client.predict(picture, picture, both, api_name="/compare")
    assert said.count("cosine similarity 1.000") == 2


def test_a_slider_never_runs_the_model_again(running, monkeypatch):
    attention(running, running.picture)
    network, _ = running.models.get(running.vit)
    calls = []
    handle = network.register_forward_pre_hook(lambda *_: calls.append(1))
    for strength in (0.1, 0.2, 0.3):
        attention(running, running.picture, strength=strength)
    assert calls == []
    attention(running, running.picture, detail=3)
    handle.remove()
    assert calls == [1]


def encoded(mode: str, size: tuple[int, int], file_format: str) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, file_format)
    return stream.getvalue()


REFUSED = {
    "empty.png": (b"", "the file is empty"),
    "text.png": (b"this is not an image", "no picture that can be read"),
    "settings.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture that can be read"),
    "cut.jpg": (encoded("RGB", (99, 99), "JPEG")[:200], "no picture that can be read"),
    "one.png": (encoded("RGB", (1, 1), "PNG"), "at least 8 pixels"),
    "long.png": (encoded("L", (9000, 20), "PNG"), "crop it first"),
    "wide.png": (encoded("L", (20, 9000), "PNG"), "crop it first"),
    "bomb.png": (encoded("1", (16000, 12000), "PNG"), "decompression bomb"),
    "large.gif": (encoded("P", (10000, 10000), "GIF"), "10000x10000 pixels, the limit is 64 megapixels"),
    "page.html": (b"<html><script>alert(1)</script></html>", "no picture that can be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_usable_picture_gets_a_clear_message(running, tmp_path, name):
    data, message = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AppError, match=message) as refusal:
        attention(running, tmp_path / name)
    assert "Traceback" not in str(refusal.value)
    assert str(running.folder) not in str(refusal.value)


@pytest.mark.parametrize(("mode", "file_format"), [("CMYK", "JPEG"), ("I;16", "PNG"), ("P", "GIF"), ("RGBA", "WEBP")])
def test_unusual_pictures_are_shown(running, tmp_path, mode, file_format):
    path = tmp_path / f"picture.{file_format.lower()}"
    frames = {"save_all": True, "append_images": [Image.new("P", (40, 30), 3)]} if file_format == "GIF" else {}
    Image.new(mode, (40, 30)).save(path, file_format, **frames)
    assert len(attention(running, path)) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "No model chosen"),
        (["a", "b", "c", "d"], "at most 3|Too many|maximum"),
        (["/etc"], "is not a model"),
        (["../.."], "is not a model"),
        (["tests/space_app"], "is not a model|not found"),
        (["nobody/../secret"], "is not a model"),
        (["synco-v2-deit-s"], "convert"),
    ],
)
def test_models_that_are_none_or_not_here_get_a_clear_message(running, names, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AppError, match=message):
        attention(running, running.picture, names)


def test_an_unknown_hub_id_gets_a_clear_message(running, monkeypatch):
    def refuse(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(AppError, match="does not exist, is private, or the Hub cannot be reached"):
        attention(running, running.picture, ["nobody/no-such-model"])


def refused(running: Running, path: str) -> bool:
    """Asks as a program without manners would: the client itself would upload the file."""
    call = f"{running.client.src.rstrip('/')}/gradio_api/call/attention"
    picture = {"path": path, "meta": {"_type": "gradio.FileData"}}
    data = [picture, [running.vit], 1, "[CLS], mean of the heads", 1, 1.0, 0.6]
    answer = httpx.post(call, json={"data": data})
    if answer.status_code != 200:
        return True
    return "event: error" in httpx.get(f"{call}/{answer.json()['event_id']}", timeout=60).text


def test_files_outside_the_temporary_folder_are_not_read(running, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (50, 50), "red").save(secret)
    own = running.folder / "uploads" / "own.png"
    own.write_bytes(secret.read_bytes())
    assert not refused(running, str(own))
    for path in (str(secret), f"{running.folder}/uploads/../../{secret}", "/etc/hostname"):
        assert refused(running, path)
    names = {path.name for path in tmp_path.iterdir()}
    odd = tmp_path / "..%2f..%2fodd name;$(x).png"
    Image.new("RGB", (50, 50), "red").save(odd)
    assert len(attention(running, odd)) == 1
    assert {path.name for path in tmp_path.iterdir()} == names | {odd.name}


def test_too_large_uploads_are_refused(running, tmp_path):
    large = tmp_path / "large.bmp"
    large.write_bytes(b"BM" + bytes(21 * 1024**2))
    with pytest.raises(Exception, match=r"(?i)size|large|413|limit"):
        attention(running, large)


def test_models_and_results_are_bounded(running):
    cache = ModelCache(running.directories, keep=1)
    assert cache.offered == ["random-vit-nano", "random-swin-nano"]
    for name in cache.offered:
        cache.get(name)
    assert len(cache) == 1
    assert running.swin in cache
    results = ResultCache(running.models, keep=3)
    for strength in range(5):
        colour = running.picture.with_name(f"bound{strength}.png")
        Image.new("RGB", (40, 40), (strength, 0, 0)).save(colour)
        results.get(tokens, Selection(str(colour), running.vit))
    assert len(results) == 3
    assert results.computed == 5
    results.get(tokens, Selection(str(colour), running.vit))
    assert results.computed == 5


def tokens(network: Any, prepared: Any) -> torch.Tensor:
    return token_map(network, prepared.pixel_values)


def test_many_visitors_at_once_get_their_own_answers(running, tmp_path):
    colours = ["red", "lime", "blue", "white"]

    def visit(number: int) -> np.ndarray:
        # A client each: threads that share one may end each other's stream of answers.
        client = Client(running.client.src, verbose=False, download_files=str(tmp_path / str(number)))
        path = running.picture.with_name(f"colour{number % 4}.png")
        return shown(attention(replace(running, client=client), path, strength=0.0)[0]).mean(axis=(0, 1))

    for number, colour in enumerate(colours):
        Image.new("RGB", (64, 64), colour).save(running.picture.with_name(f"colour{number}.png"))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(visit, range(16)))
    for number, answer in enumerate(answers):
        expected = np.asarray(Image.new("RGB", (1, 1), colours[number % 4]))[0, 0] / 255
        np.testing.assert_allclose(answer, expected, atol=0.03)


def test_without_checkpoints_of_ones_own_the_app_opens_with_those_that_ship(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    cache = ModelCache()
    assert cache.shipped_only
    assert cache.offered == ["synco-v2-vit-nano", "moby-vit-nano", "byol-vit-nano"]
    first, _ = cache.get(cache.offered[0])
    again, _ = ModelCache().get(cache.offered[0])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "/proc/self/environ",
        "README.md",
        "pyproject.toml",
        "space_app/app.py",
        "{uploads}/../../secret.png",
        "{uploads}/%2e%2e/%2e%2e/secret.png",
    ],
)
def test_the_server_hands_out_nothing_but_uploads_and_answers(running, path):
    (running.folder.parent / "secret.png").write_bytes(b"secret")
    path = path.format(uploads=running.folder / "uploads")
    for route in ("gradio_api/file=", "file=", "gradio_api/file/", "static/", "assets/"):
        answer = httpx.get(f"{running.client.src.rstrip('/')}/{route}{path}")
        assert answer.status_code in (400, 403, 404, 405), (route, path, answer.status_code)
        assert b"root:" not in answer.content
        assert answer.content != b"secret"


def upload(running: Running, name: str, data: bytes) -> httpx.Response:
    url = f"{running.client.src.rstrip('/')}/gradio_api/upload"
    return httpx.post(url, files={"files": (name, data)}, timeout=60)


@pytest.mark.parametrize(
    "name", ["../../../escaped.png", "/tmp/escaped.png", "a/b/../../escaped.png", "..", "\x00.png"]
)
def test_names_with_path_parts_stay_in_the_upload_folder(running, name):
    before = set(running.folder.parent.rglob("*"))
    answer = upload(running, name, encoded("RGB", (20, 20), "PNG"))
    if answer.status_code == 200:
        (place,) = answer.json()
        assert Path(place).resolve().is_relative_to((running.folder / "uploads").resolve())
    new = set(running.folder.parent.rglob("*")) - before
    assert all(path.is_relative_to(running.folder / "uploads") for path in new)
    assert not Path("/tmp/escaped.png").exists()


def test_the_server_refuses_an_upload_beyond_the_limit_and_keeps_nothing_of_it(running):
    before = {path for path in running.folder.rglob("*") if path.is_file()}
    assert upload(running, "large.png", bytes(20 * 1024**2 + 1)).status_code == 413
    left = {path for path in running.folder.rglob("*") if path.is_file()} - before
    assert sum(path.stat().st_size for path in left) <= 20 * 1024**2
    assert upload(running, "fits.png", bytes(20 * 1024**2)).status_code == 200


def test_uploads_and_answers_are_deleted_after_their_time_and_examples_stay(tmp_path, monkeypatch, running):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "restored after this test")
    monkeypatch.setattr("space_app.app._KEPT_SECONDS", 3)
    monkeypatch.setattr("space_app.app._DELETE_EVERY_SECONDS", 0.2)
    page = build_app(ModelCache(running.directories), tmp_path)
    launch(page, port=0, prevent_thread_lock=True, quiet=True)
    try:
        client = Client(page.local_url, verbose=False, download_files=str(tmp_path.parent / "downloads"))
        here = Running(client, tmp_path, *running.models.offered, running.picture, running.models, [])
        assert len(attention(here, running.picture)) == 1

        def kept() -> list[str]:
            files = [path for path in (tmp_path / "uploads").rglob("*") if path.is_file()]
            return [path.name for path in files if path.parent.name != "examples"]

        deadline = time.monotonic() + 60
        while kept() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert kept() == []
        assert len(list((tmp_path / "uploads" / "examples").iterdir())) == 10
        assert len(attention(here, running.picture)) == 1
    finally:
        page.close()


def test_a_pictures_classes_come_from_the_checkpoints_own_head(tmp_path, running, save_checkpoint):
    labels = {"num_labels": 2, "id2label": {0: "fern", 1: "tree"}}
    headed = ModelCache([save_checkpoint(tmp_path / "headed", kind=SynCoForImageClassification, **labels)])
    running.models._sources.update(headed._sources)
    picture = handle_file(str(running.picture))
    (entry,) = running.client.predict(picture, ["headed"], 1, "Grad-CAM", 1.0, 0.6, api_name="/gradients")
    model, processor = headed.get("headed")
    with torch.no_grad():
        chosen = model(**processor(Image.open(running.picture), return_tensors="pt")).logits.argmax()
    assert f"score of predicted class {('fern', 'tree')[chosen]}" in entry["caption"]
