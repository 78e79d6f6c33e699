import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers.utils.hub
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoProcessor,
    SwinConfig,
    SwinModel,
    ViTImageProcessor,
    pipeline,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.hub import short_names
from synco_hub.hub.short_names import register
from synco_hub.models import SynCoBackbone, SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from synco_hub.zoo import ZOO

MISSING = "byol-swin-t"
# ---- everybody else's ids


OTHERS = [
    "bert-base-uncased",
    "bert-base-uncased/",
    "byol",
    "some-organisation/synco-v2-deit-s",
    "./synco-v2-deit-s",
    "../synco-v2-deit-s",
    "/absolute/synco-v2-deit-s",
    "synco-v2-deit-s/config.json",
    "moby-deit-s/model.safetensors",
    "..",
    "",
    "/",
    "~",
]
SPELLED_OTHERWISE = ["synco-v2-deit-s/", "Synco-V2-DeiT-S", "SYNCO-V2-DEIT-S//"]
AUTO = "from transformers import AutoModel, AutoConfig, AutoImageProcessor"
CHECK = """
import sys
model = AutoModel.from_pretrained(sys.argv[1])
assert type(model).__module__ == "synco_hub.models.modeling_synco"
assert type(AutoConfig.from_pretrained(sys.argv[1])) is type(model.config)
assert AutoImageProcessor.from_pretrained(sys.argv[1]).crop_size["height"] == 32
assert not {"datasets", "evaluate", "gradio", "torchattacks"} & set(sys.modules)
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home of the zoo and an empty working directory."""
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "zoo"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "zoo"


@pytest.fixture
def no_network(monkeypatch) -> list[object]:
    """Every attempt to reach the network is noted and refused."""
    attempts: list[object] = []

    def refuse(*args: object, **kwargs: object) -> None:
        attempts.append(args)
        raise OSError("the network was asked")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return attempts


def _checkpoint(directory: Path, seed: int) -> SynCoModel:
    torch.manual_seed(seed)
    model = SynCoModel(SynCoConfig("vit-nano")).eval()
    model.save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return model


def _same(found: SynCoModel, wanted: SynCoModel) -> bool:
    return torch.equal(found.backbone.cls_token, wanted.backbone.cls_token)


# ---- the order of places


def test_an_installed_checkpoint_is_found_by_all_auto_classes_without_network(home, no_network):
    installed = _checkpoint(home / "checkpoints" / "moby-deit-s", seed=1)
    for arguments in ({}, {"trust_remote_code": True}):
        assert type(AutoConfig.from_pretrained("moby-deit-s", **arguments)) is SynCoConfig
        assert _same(AutoModel.from_pretrained("moby-deit-s", **arguments), installed)
        classifier = AutoModelForImageClassification.from_pretrained("moby-deit-s", **arguments)
        assert _same(classifier.synco, installed)
        assert AutoImageProcessor.from_pretrained("moby-deit-s", **arguments).crop_size["height"] == 32
    assert AutoFeatureExtractor.from_pretrained("moby-deit-s").crop_size["height"] == 32
    assert _same(SynCoModel.from_pretrained("moby-deit-s"), installed)
    assert _same(AutoModel.from_pretrained(Path("moby-deit-s")), installed)
    extractor = pipeline("image-feature-extraction", model="moby-deit-s", pool=True)
    assert _same(extractor.model, installed)
    assert not no_network


def test_a_local_directory_of_the_same_name_wins(home, no_network):
    installed = _checkpoint(home / "checkpoints" / "synco-v2-deit-s", seed=2)
    assert _same(AutoModel.from_pretrained("synco-v2-deit-s"), installed)
    local = _checkpoint(Path("synco-v2-deit-s"), seed=3)
    assert short_names.resolve("synco-v2-deit-s") == "synco-v2-deit-s"
    assert _same(AutoModel.from_pretrained("synco-v2-deit-s"), local)
    assert not _same(AutoModel.from_pretrained("synco-v2-deit-s"), installed)
    assert not no_network


def test_a_local_file_of_the_same_name_is_no_checkpoint(home):
    Path("synco-v2-deit-s").write_text("")
    _checkpoint(home / "checkpoints" / "synco-v2-deit-s", seed=4)
    assert short_names.resolve("synco-v2-deit-s") == str(home / "checkpoints" / "synco-v2-deit-s")


def test_a_checkpoint_of_ones_own_name_is_found_too(home, no_network):
    installed = _checkpoint(home / "checkpoints" / "my.photographs_2", seed=5)
    assert _same(AutoModel.from_pretrained("my.photographs_2"), installed)
    assert not no_network


def test_a_published_checkpoint_comes_last_from_its_repository(home, monkeypatch):
    monkeypatch.setitem(ZOO, "moby-deit-s", replace(ZOO["moby-deit-s"], hub_repo="some-organisation/moby-deit-s"))
    assert short_names.resolve("moby-deit-s") == "some-organisation/moby-deit-s"
    _checkpoint(home / "checkpoints" / "moby-deit-s", seed=6)
    assert short_names.resolve("moby-deit-s") == str(home / "checkpoints" / "moby-deit-s")
    Path("moby-deit-s").mkdir()
    assert short_names.resolve("moby-deit-s") == "moby-deit-s"


# ---- who asks more than for files


ASKING = """
import sys
from transformers import AutoBackbone, AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoProcessor, pipeline
import synco_hub
for name in sys.argv[1:]:
    assert AutoProcessor.from_pretrained(name).crop_size["height"] == 32
    assert type(pipeline(model=name)).__name__ == "ImageFeatureExtractionPipeline"
    assert AutoFeatureExtractor.from_pretrained(name).to_dict() == AutoImageProcessor.from_pretrained(name).to_dict()
    backbone, model = AutoBackbone.from_pretrained(name), AutoModel.from_pretrained(name)
    assert type(backbone).__name__ == "SynCoBackbone"
    for ours, wanted in zip(backbone.synco.parameters(), model.parameters(), strict=True):
        assert ours.equal(wanted)
"""


def test_nothing_asks_the_hub_for_a_name_of_the_zoo(home, hub):
    _checkpoint(home / "checkpoints" / "synco-v2-deit-s", seed=1)
    directory = str(home / "checkpoints" / "synco-v2-deit-s")
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home / "hf"),
        "TRANSFORMERS_VERBOSITY": "error",
    }
    command = [sys.executable, "-c", ASKING, "synco-v2-deit-s", *SPELLED_OTHERWISE, directory]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.requests == []


@pytest.mark.parametrize("name", SPELLED_OTHERWISE)
def test_a_slash_behind_a_name_and_other_capitals_mean_the_same(name, home, no_network):
    installed = _checkpoint(home / "checkpoints" / "synco-v2-deit-s", seed=4)
    assert short_names.resolve(name) == str(home / "checkpoints" / "synco-v2-deit-s")
    assert _same(AutoModel.from_pretrained(name), installed)
    with pytest.raises(OSError, match=f"'{MISSING}' is not on this computer"):
        short_names.resolve(name.lower().replace("synco-v2-deit-s", "BYOL-Swin-T"))
    assert not no_network


def test_a_backbone_in_a_local_directory_is_there(home, no_network):
    config = SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)
    SwinModel(config).save_pretrained("swin")
    assert type(AutoBackbone.from_pretrained("swin")).__name__ == "SwinBackbone"
    assert not no_network


def test_templates_and_task_of_a_local_checkpoint_are_told_without_the_hub(home):
    directory = home / "checkpoints" / "moby-deit-s"
    SynCoForImageClassification(SynCoConfig("vit-nano")).save_pretrained(directory)
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates" / "a.jinja").write_text("")
    client = transformers.utils.hub.hf_api()
    listed = list(client.list_repo_tree(repo_id="MoBY-deit-s", path_in_repo="additional_chat_templates"))
    assert [entry.path for entry in listed] == ["additional_chat_templates/a.jinja"]
    assert list(client.list_repo_tree(repo_id="moby-deit-s", path_in_repo="nothing")) == []
    assert client.model_info("moby-deit-s").pipeline_tag == "image-classification"
    assert client.snapshot_download("moby-deit-s", local_files_only=True) == str(directory)


# ---- nowhere


@pytest.mark.parametrize(
    "load",
    [
        AutoConfig.from_pretrained,
        AutoModel.from_pretrained,
        AutoModelForImageClassification.from_pretrained,
        AutoImageProcessor.from_pretrained,
        SynCoConfig.from_pretrained,
        SynCoModel.from_pretrained,
        lambda name: pipeline("image-feature-extraction", model=name),
        lambda name: pipeline("image-classification", model=name),
        AutoProcessor.from_pretrained,
        AutoFeatureExtractor.from_pretrained,
        AutoBackbone.from_pretrained,
        lambda name: AutoModel.from_pretrained(name, trust_remote_code=True),
        lambda name: AutoModel.from_pretrained(Path(name)),
    ],
)
def test_a_checkpoint_that_is_nowhere_gives_one_error_and_asks_nobody(load, home, no_network):
    with pytest.raises(OSError, match=f"'{MISSING}' is not on this computer") as error:
        load(MISSING)
    message = str(error.value)
    assert "(1) pull it from the Hub" in message
    assert f"(2) convert the authors' release into a directory ./{MISSING}" in message
    assert "synco-hub pretrain --method byol --backbone swin-t" in message
    assert str(home / "checkpoints" / MISSING) in message
    assert "\n" not in message
    assert not no_network
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("synco-v2-deit-t1ny", "synco-v2-deit-s"), ("MoBY-Swin-S/", "moby-swin-t"), ("byol-of-mine", "byol-of-mine-2")],
)
def test_a_mistyped_name_is_said_to_be_one_and_asks_nobody(name, meant, home, no_network):
    _checkpoint(home / "checkpoints" / "byol-of-mine-2", seed=1)
    for load in (AutoConfig, AutoModel, AutoImageProcessor, AutoProcessor, SynCoModel, AutoBackbone):
        with pytest.raises(OSError, match=f"'{name.rstrip('/')}' is neither a directory, nor installed") as error:
            load.from_pretrained(name)
        assert f"Did you mean '{meant}'" in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(OSError, match="neither a directory, nor installed"):
        pipeline("image-feature-extraction", model=name)
    assert not no_network
    Path(name.rstrip("/")).write_text("")  # what a file of that name is, transformers says
    assert short_names.resolve(name) == name


def test_half_an_installed_checkpoint_is_none(home):
    (home / "checkpoints" / MISSING).mkdir(parents=True)
    with pytest.raises(OSError, match="is not on this computer"):
        short_names.resolve(MISSING)


@pytest.mark.parametrize("name", OTHERS)
def test_other_ids_go_through_untouched(name, home):
    calls = []

    def original(path_or_repo_id, filenames, **kwargs):
        calls.append((path_or_repo_id, filenames, kwargs))
        return ["found"]

    hub = SimpleNamespace(cached_files=original)
    short_names.wrap_cached_files(hub)
    assert hub.cached_files(name, ["config.json"], revision="abc") == ["found"]
    assert calls == [(name, ["config.json"], {"revision": "abc"})]


def test_short_names_are_replaced_and_the_rest_of_the_call_is_not(home, monkeypatch):
    monkeypatch.setitem(ZOO, "byol-deit-s", replace(ZOO["byol-deit-s"], hub_repo="some-organisation/byol"))
    calls = []
    hub = SimpleNamespace(cached_files=lambda *args, **kwargs: calls.append((args, kwargs)))
    short_names.wrap_cached_files(hub)
    hub.cached_files("byol-deit-s", ["config.json"], subfolder="")
    hub.cached_files(path_or_repo_id="byol-deit-s", filenames=["x"])
    hub.cached_files(Path("byol-deit-s"), ["z"])
    hub.cached_files(None, ["y"])
    assert calls == [
        (("some-organisation/byol", ["config.json"]), {"subfolder": ""}),
        (("some-organisation/byol",), {"filenames": ["x"]}),
        (("some-organisation/byol", ["z"]), {}),
        ((None, ["y"]), {}),
    ]


def test_errors_of_the_original_come_through(home):
    def original(path_or_repo_id: str, filenames: list[str]) -> None:
        raise OSError(f"no {path_or_repo_id}")

    hub = SimpleNamespace(cached_files=original)
    short_names.wrap_cached_files(hub)
    with pytest.raises(OSError, match="no bert-base-uncased"):
        hub.cached_files("bert-base-uncased", [])


def test_is_installed_once():
    hub = SimpleNamespace(cached_files=lambda name: name)
    original = hub.cached_files
    short_names.wrap_cached_files(hub)
    wrapped = hub.cached_files
    short_names.wrap_cached_files(hub)
    assert hub.cached_files is wrapped
    assert wrapped.__wrapped__ is original
    before = transformers.utils.hub.cached_files
    short_names.wrap_cached_files(transformers.utils.hub)
    assert transformers.utils.hub.cached_files is before
    assert not hasattr(before.__wrapped__, "__wrapped__")


def test_one_function_of_transformers_stands_below_all_loading():
    # Everything else imports `cached_file`, which must still ask its own module for `cached_files`.
    assert "cached_files" in transformers.utils.hub.cached_file.__code__.co_names
    assert transformers.utils.hub.cached_file.__globals__ is vars(transformers.utils.hub)


# ---- revisions, which newer versions of transformers ask for before any file


def _hub_with_revisions(calls: list[object]) -> SimpleNamespace:
    client = SimpleNamespace(resolve_revision=lambda *args, **kwargs: calls.append((args, kwargs)) or "commit")
    return SimpleNamespace(cached_files=lambda *args: None, resolve_revision=None, hf_api=lambda: client)


def test_the_revision_of_a_local_checkpoint_is_nobodys_business(home):
    calls: list[object] = []
    hub = _hub_with_revisions(calls)
    short_names.wrap_cached_files(hub)
    _checkpoint(home / "checkpoints" / "moby-deit-s", seed=7)
    assert hub.hf_api().resolve_revision("moby-deit-s", repo_type=None, revision="v1") == "v1"
    Path("byol-deit-s").mkdir()
    assert hub.hf_api().resolve_revision("byol-deit-s", revision=None) is None
    with pytest.raises(OSError, match="is not on this computer"):
        hub.hf_api().resolve_revision(MISSING, revision=None)
    assert not calls


def test_the_revision_of_a_published_checkpoint_is_its_repositorys(home, monkeypatch):
    monkeypatch.setitem(ZOO, "byol-deit-s", replace(ZOO["byol-deit-s"], hub_repo="some-organisation/byol"))
    calls: list[object] = []
    hub = _hub_with_revisions(calls)
    short_names.wrap_cached_files(hub)
    short_names.wrap_cached_files(hub)
    assert hub.hf_api().resolve_revision("byol-deit-s", revision="v2", token="t") == "commit"
    assert hub.hf_api().resolve_revision("bert-base-uncased", revision=None) == "commit"
    assert calls == [
        (("some-organisation/byol",), {"revision": "v2", "token": "t"}),
        (("bert-base-uncased",), {"revision": None}),
    ]


def test_a_small_checkpoint_is_made_by_the_demonstration_not_converted(home):
    message = short_names.describe_missing("moby-vit-nano")
    assert "synco-hub demo --method moby" in message
    assert "convert" not in message


def _photographs(seed: int) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)) for size in ((40, 52, 3), (64, 33, 3))]


def test_the_auto_classes_know_the_model_type():
    config = AutoConfig.for_model("synco", backbone="vit-nano")
    assert type(config) is SynCoConfig
    assert type(AutoModel.from_config(config)) is SynCoModel
    assert type(AutoModelForImageClassification.from_config(config)) is SynCoForImageClassification
    assert type(AutoBackbone.from_config(config)) is SynCoBackbone


def test_registering_again_changes_nothing():
    for _ in range(2):
        register()
    test_the_auto_classes_know_the_model_type()


def test_the_image_processor_is_known_by_the_model_type_and_is_the_fast_one(tmp_path):
    assert IMAGE_PROCESSOR_MAPPING[SynCoConfig] == {"torchvision": ViTImageProcessor}
    SynCoConfig("vit-nano").save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    written = tmp_path / "preprocessor_config.json"
    settings = json.loads(written.read_text())
    assert settings.pop("image_processor_type") == "ViTImageProcessor"
    written.write_text(json.dumps(settings))  # now only the model type tells the class
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is ViTImageProcessor
    assert processor.crop_size["height"] == 32


@pytest.mark.parametrize(
    "imports",
    [
        # The usual order: registration happens while transformers is still importing itself.
        f"import synco_hub; {AUTO}",
        pytest.param(f"from synco_hub import SynCoModel; {AUTO}", marks=pytest.mark.slow),
        pytest.param(f"from synco_hub.models import SynCoConfig; {AUTO}", marks=pytest.mark.slow),
        pytest.param(f"{AUTO}; import synco_hub", marks=pytest.mark.slow),
    ],
)
def test_every_order_of_imports_registers(imports, tmp_path):
    SynCoModel(SynCoConfig("vit-nano", depth=1)).save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    finished = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{CHECK}", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_pipeline_of_features(backbone, tmp_path):
    torch.manual_seed(3)
    model = SynCoModel(SynCoConfig(backbone)).eval()
    model.save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    images = _photographs(4)
    features = pipeline("image-feature-extraction", model=str(tmp_path), pool=True, return_tensors=True)(images)
    tokens = pipeline("image-feature-extraction", model=str(tmp_path))(images[0])
    with torch.no_grad():
        for image, feature in zip(images, features, strict=True):
            expected = model(image_processor(32)(image, return_tensors="pt")["pixel_values"])
            torch.testing.assert_close(feature, expected.pooler_output, rtol=1e-5, atol=1e-5)
        expected = model(image_processor(32)(images[0], return_tensors="pt")["pixel_values"]).last_hidden_state
    torch.testing.assert_close(torch.tensor(tokens), expected, rtol=1e-5, atol=1e-5)


def test_pipeline_of_classes(tmp_path):
    torch.manual_seed(5)
    labels = {0: "ibex", 1: "chough", 2: "pika"}
    model = SynCoForImageClassification(SynCoConfig("vit-nano", id2label=labels)).eval()
    model.save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    image = _photographs(6)[0]
    found = pipeline("image-classification", model=str(tmp_path))(image)
    with torch.no_grad():
        logits = model(image_processor(32)(image, return_tensors="pt")["pixel_values"]).logits[0].double()
    odds = logits.exp() / logits.exp().sum()
    assert [entry["label"] for entry in found] == [labels[i] for i in odds.argsort(descending=True).tolist()]
    assert [entry["score"] for entry in found] == pytest.approx(sorted(odds.tolist(), reverse=True), abs=1e-5)
