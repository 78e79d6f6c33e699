"""Checkpoints as training scripts leave them: wrapped, averaged, beside numbers of numpy, in shards."""

import json
import pickle

import numpy as np
import pytest
import timm
import torch
from foreign_checkpoints import AUTHORS_CONFIG, dino, moby_like, names_of, swin, vit, yacs
from safetensors.torch import save_file
from timm.models import save_for_hf
from transformers import AutoModel, ViTConfig, ViTImageProcessor, ViTModel

from synco_hub.hub.conversion.configuration import Choices
from synco_hub.hub.conversion.convert import ConversionSettings, convert
from synco_hub.hub.conversion.pretraining_state import AUTHORS_OBJECTIVE
from synco_hub.hub.conversion.source import CheckpointSource, choose_state, find_states, open_source, unwrap_names
from trainers import SynCoForPreTraining
from trainers.recipe import choose_fidelity_settings

NETWORK = vit(num_heads=6, sincos=False)
STATE = dict(NETWORK.state_dict())
AVERAGE = {key: value + 0.1 for key, value in STATE.items()}
SMALL = ConversionSettings(choices=Choices(image_size=32))


def saved(tmp_path, content, name="source.pth", **kwargs):
    torch.save(content, tmp_path / name, **kwargs)
    return str(tmp_path / name)


@torch.no_grad()
def difference(directory, network, state=None):
    if state is not None:
        network = vit(num_heads=6, sincos=False)
        network.load_state_dict(state)
    model = AutoModel.from_pretrained(directory).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    expected = network.forward_head(network.forward_features(images), pre_logits=True)
    return float((model(images).pooler_output - expected).abs().max())


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix",
    ["_orig_mod.", "module.", "model.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.module.model."],
)
@pytest.mark.parametrize("kind", ["plain", "state_dict", "safetensors", "pair", "swin"])
def test_what_wrappers_put_before_the_names_is_taken_off(tmp_path, prefix, kind):
    network = swin() if kind == "swin" else NETWORK
    state = prefixed(prefix, network.state_dict())
    if kind == "safetensors":
        save_file(state, tmp_path / "x.safetensors")
        source = str(tmp_path / "x.safetensors")
    elif kind == "pair":
        content = moby_like(NETWORK, NETWORK)
        source = saved(tmp_path, {"model": prefixed(prefix, content["model"])})
    else:
        source = saved(tmp_path, {"state_dict": state} if kind == "state_dict" else state)
    report = convert(source, tmp_path / "out", SMALL)
    assert difference(tmp_path / "out", network) <= 1e-6
    assert sum(report.mapped.values()) + sum(row["tensors"] for row in report.dropped) == report.tensors_in_file


def test_wrappers_inside_of_names_and_names_that_become_one():
    state = {"encoder._orig_mod.cls_token": 1, "encoder.blocks.0._checkpoint_wrapped_module.norm1.weight": 2}
    assert set(unwrap_names(state)) == {"encoder.cls_token", "encoder.blocks.0.norm1.weight"}
    assert set(unwrap_names({"model.a": 1, "criterion.b": 2})) == {"model.a", "criterion.b"}
    with pytest.raises(ValueError, match="are one name"):
        unwrap_names({"module.a": 1, "a": 2})


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_of_numpy_beside_the_weights_are_read(tmp_path, zipped):
    beside = {
        "best": np.float64(3.2),
        "epoch": np.int64(7),
        "done": np.bool_(True),
        "curve": np.arange(6, dtype=np.float32).reshape(2, 3),
        "args": {"lr": np.float32(0.1)},
    }
    options = {"_use_new_zipfile_serialization": zipped}
    source = saved(tmp_path, {"model": STATE, **beside}, **options)
    content = open_source(source).content
    assert (content["best"], content["epoch"], content["done"]) == (3.2, 7, True)
    assert list(content["curve"]) == [[0, 1, 2], [3, 4, 5]]
    convert(source, tmp_path / "out")
    assert difference(tmp_path / "out", NETWORK) <= 1e-6


def test_numpy_opens_no_other_door(tmp_path):
    class Hostile:
        def __reduce__(self):
            return np.load, ("/etc/passwd",)

    source = saved(tmp_path, {"model": STATE, "best": Hostile()})
    with pytest.raises(ValueError, match=r"nothing in it was run: it names numpy\.\S*load"):
        open_source(source)
    assert pickle.dumps(Hostile())


AVERAGES = {
    "model_ema": ({"model": STATE, "model_ema": AVERAGE}, "model_ema"),
    "timm": (
        {"state_dict": STATE, "state_dict_ema": AVERAGE, "epoch": 3, "optimizer": {"state": {}}},
        "state_dict_ema",
    ),
    "nested": ({"model": STATE, "ema": {"decay": 0.99, "module": AVERAGE}}, "ema"),
    "wrapped": ({"net": prefixed("module.", STATE), "ema": prefixed("module._orig_mod.", AVERAGE)}, "ema"),
    "teacher": ({"model": STATE, "teacher": AVERAGE}, "teacher"),
    "with a tensor": ({"model": STATE, "ema": {"decay": torch.tensor(0.9), "shadow": AVERAGE}}, "ema.shadow"),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_of_the_weights_is_counted_and_can_be_taken(tmp_path, name):
    content, branch = AVERAGES[name]
    source = saved(tmp_path, content)
    report = convert(source, tmp_path / "own")
    assert difference(tmp_path / "own", NETWORK) <= 1e-6
    assert f"the file has {branch}" in report.branch["reason"]
    row = next(row for row in report.dropped if row["what"] == branch.split(".")[0])
    assert row["tensors"] >= len(STATE)
    assert f"--branch {branch}" in row["reason"]
    taken = convert(source, tmp_path / "average", ConversionSettings(branch=branch))
    assert difference(tmp_path / "average", None, AVERAGE) <= 1e-6
    assert f"under '{branch}'" in taken.branch["reason"]
    dropped = {row["what"]: row["tensors"] for row in taken.dropped}
    assert next(dropped[key] for key in ("model", "state_dict", "net") if key in dropped) == len(STATE)
    for each in (report, taken):
        assert sum(each.mapped.values()) + sum(row["tensors"] for row in each.dropped) == each.tensors_in_file
    with pytest.raises(ValueError, match=rf"branch='emma' is unknown: the file has online.*{branch}"):
        convert(source, tmp_path / "other", ConversionSettings(branch="emma"))


def test_one_object_under_two_names_is_counted_twice_on_both_sides(tmp_path):
    report = convert(saved(tmp_path, {"model": STATE, "model_ema": STATE}), tmp_path / "out")
    assert report.tensors_in_file == 2 * len(STATE)
    assert difference(tmp_path / "out", NETWORK) <= 1e-6


@pytest.mark.parametrize("place", ["network", "ema", "state_dict_ema", "backbone"])
def test_the_only_weights_of_a_file_are_found_whatever_they_are_called(tmp_path, place):
    source = saved(tmp_path, {place: STATE, "optimizer": {"state": {"exp_avg": torch.zeros(3)}}, "epoch": 1})
    report = convert(source, tmp_path / "out")
    assert report.branch["reason"] == "the only one in the file"
    assert difference(tmp_path / "out", NETWORK) <= 1e-6


def test_several_weights_without_a_usual_name_are_asked_about(tmp_path):
    source = saved(tmp_path, {"first": STATE, "second": AVERAGE})
    with pytest.raises(ValueError, match=r"weights under first, second: choose by --branch, such as first"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", ConversionSettings(branch="second"))
    assert difference(tmp_path / "out", None, AVERAGE) <= 1e-6
    states = find_states(CheckpointSource("x", "torch", None, {"first": STATE, "second": {"a": {"b": AVERAGE}}}))
    assert set(states) == {"first", "second.a.b"}
    with pytest.raises(ValueError, match="has no dictionary of tensors"):
        choose_state(CheckpointSource("x", "torch", None, {"epoch": 3}), ())


def test_dinos_own_words_for_its_branches(tmp_path):
    student, teacher = vit(num_heads=6, sincos=False, seed=1), vit(num_heads=6, sincos=False, seed=2)
    source = saved(tmp_path, dino(student, teacher))
    for branch, network in (("student", student), ("teacher", teacher)):
        convert(source, tmp_path / branch, ConversionSettings(branch=branch))
        assert difference(tmp_path / branch, network) <= 1e-6


def test_moco_v3s_own_conversion_is_read_as_moco_v3(tmp_path):
    """As its convert_to_deit.py writes: the base encoder without beginning and head, under `model`."""
    network = vit(num_heads=12)
    source = saved(tmp_path, {"model": names_of(network)})
    with pytest.raises(ValueError, match="give --layout"):
        convert(source, tmp_path / "out")
    report = convert(source, tmp_path / "out", ConversionSettings(layout="moco-v3"))
    assert report.heads["num_heads"] == 12
    assert difference(tmp_path / "out", network) <= 1e-6


def test_networks_that_no_choice_turns_into_one_of_ours_are_named(tmp_path):
    stem = {f"patch_embed.proj.{n}.weight": torch.zeros(4, 3, 3, 3) for n in (0, 3)}
    rest = {key: value for key, value in STATE.items() if not key.startswith("patch_embed")}
    for number, choices in enumerate((Choices(), Choices(backbone="deit-s"))):
        source = saved(tmp_path, {"state_dict": {**rest, **stem}}, f"{number}.pth")
        with pytest.raises(ValueError, match=r"convolutional stem .*ViT-S, ViT-B"):
            convert(source, tmp_path / "out", ConversionSettings(layout="moco-v3", choices=choices))
    pooled = timm.create_model(
        "vit_small_patch16_224", depth=1, img_size=32, num_classes=0, class_token=False, global_pool="avg"
    )
    with pytest.raises(ValueError, match=r"ViT without a \[CLS\] token"):
        convert(saved(tmp_path, pooled.state_dict(), "pooled.pth"), tmp_path / "out")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"reg_tokens": 4}, "register tokens"),
        ({"init_values": 1e-5}, "a scale of every layer"),
        ({"pre_norm": True}, "a norm before its blocks"),
        ({"qk_norm": True}, "norms of queries and keys"),
    ],
)
def test_parts_that_no_vit_of_ours_has_are_named(tmp_path, option, words):
    network = timm.create_model("vit_small_patch16_224", depth=1, img_size=32, num_classes=0, **option)
    with pytest.raises(ValueError, match=f"a ViT with {words} .* Measure it as it is"):
        convert(saved(tmp_path, network.state_dict()), tmp_path / "out")


def stock(directory, **options):
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(directory, **options)
    return model


@torch.no_grad()
def same_as_stock(directory, model):
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    ours = AutoModel.from_pretrained(directory).eval()(images).pooler_output
    return bool((ours - model(images).last_hidden_state[:, 0]).abs().max() < 1e-5)


def test_shards_of_transformers_are_one_network(tmp_path):
    model = stock(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").is_file()
    report = convert(str(tmp_path / "shards"), tmp_path / "out")
    assert same_as_stock(tmp_path / "out", model)
    assert len(report.source["sha256"]) == 64
    next((tmp_path / "shards").glob("model-00002*")).unlink()
    with pytest.raises(ValueError, match=r"names shards that are not beside it .model-00002"):
        convert(str(tmp_path / "shards"), tmp_path / "again")


@pytest.mark.parametrize("shards", [1, 2])
def test_directories_with_pytorch_files_are_read_without_running_them(tmp_path, shards):
    model = stock(tmp_path / "stock")
    (tmp_path / "stock" / "model.safetensors").unlink()
    items = list(model.state_dict().items())
    saved_names = dict(open_source_names(model, tmp_path))
    del items
    if shards == 1:
        torch.save(saved_names, tmp_path / "stock" / "pytorch_model.bin")
    else:
        names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
        parts = [dict(list(saved_names.items())[n::2]) for n in (0, 1)]
        for name, part in zip(names, parts, strict=True):
            torch.save(part, tmp_path / "stock" / name)
        index = {"weight_map": {key: name for name, part in zip(names, parts, strict=True) for key in part}}
        (tmp_path / "stock" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    convert(str(tmp_path / "stock"), tmp_path / "out")
    assert same_as_stock(tmp_path / "out", model)


def open_source_names(model, tmp_path):
    """A stock model's tensors under the names it is saved by."""
    model.save_pretrained(tmp_path / "again")
    return open_source(str(tmp_path / "again")).content


def test_a_directory_of_the_wrapper_of_timm_is_one_of_timm(tmp_path):
    (tmp_path / "wrapped").mkdir()
    save_file(prefixed("timm_model.", STATE), tmp_path / "wrapped" / "model.safetensors")
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_type": "timm_wrapper", "architecture": "vit_small_patch16_224", "pretrained_cfg": cfg}
    config["model_args"] = {"depth": 2, "img_size": 32}
    (tmp_path / "wrapped" / "config.json").write_text(json.dumps(config))
    report = convert(str(tmp_path / "wrapped"), tmp_path / "out")
    assert difference(tmp_path / "out", NETWORK) <= 1e-6
    assert report.preprocessing["processor"]["image_mean"] == [0.5] * 3


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("test_vit", {}),
        ("test_vit", {"in_chans": 1, "img_size": 64}),
        ("vit_tiny_patch16_224", {"depth": 2, "img_size": 32, "patch_size": 8}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "img_size": 64, "window_size": 2}),
    ],
)
def test_what_timm_saves_of_its_own_networks_is_read_with_what_it_says_of_each(tmp_path, architecture, arguments):
    network = timm.create_model(architecture, num_classes=4, **arguments).eval()
    save_for_hf(network, tmp_path / "saved", safe_serialization=True)
    report = convert(str(tmp_path / "saved"), tmp_path / "out")
    if "swin" not in architecture:
        assert report.heads["reason"] == "as timm's config.json says"
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    size = network.patch_embed.img_size[0]
    images = torch.randn(2, arguments.get("in_chans", 3), size, size, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(model(images).pooler_output, expected, rtol=0, atol=1e-5)


def test_a_network_of_timm_that_pools_otherwise_is_refused(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", depth=1, global_pool="max", fc_norm=False, num_classes=4)
    save_for_hf(network, tmp_path / "saved", safe_serialization=True)
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    # As older versions of timm leave it out of what they note.
    config["model_args"] = {"depth": 1, "global_pool": "max"}
    (tmp_path / "saved" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="global_pool='max', and the network of this package pools by 'token'"):
        convert(str(tmp_path / "saved"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_pooling_is_named_where_its_norm_has_another_name_too(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", depth=1, global_pool="avg", num_classes=4)
    save_for_hf(network, tmp_path / "saved", safe_serialization=True)
    with pytest.raises(ValueError, match="global_pool='avg', and the network of this package pools by 'token'"):
        convert(str(tmp_path / "saved"), tmp_path / "out")


def test_a_pretraining_state_of_the_authors_goes_on_with_their_objective(tmp_path):
    source = saved(tmp_path, moby_like(vit(), vit(), yacs(AUTHORS_CONFIG)))
    convert(source, tmp_path / "out", ConversionSettings(whole_pretraining_state=True))
    settings = SynCoForPreTraining.from_pretrained(tmp_path / "out").settings
    assert (settings.noise_std, sum(settings.counts.values())) == (0.1, 576)
    group = choose_fidelity_settings("authors-code", "synco-v2", "deit-s")
    assert {key: group[key] for key in AUTHORS_OBJECTIVE} == AUTHORS_OBJECTIVE
    convert(
        saved(tmp_path, moby_like(vit(sincos=False), vit(sincos=False)), "moby.pth"),
        tmp_path / "moby",
        ConversionSettings(whole_pretraining_state=True),
    )
    assert SynCoForPreTraining.from_pretrained(tmp_path / "moby").settings.method == "moby"


def test_a_repository_of_the_hub_at_a_revision(hub_api, tmp_path):
    hub_api.create_repo("tester/vit")
    commits, models = [], []
    for seed in (0, 1):
        model = stock(tmp_path / f"{seed}", max_shard_size="20KB" if seed else "1GB")
        with torch.no_grad():
            model.layernorm.bias += seed
        model.save_pretrained(tmp_path / f"{seed}", max_shard_size="20KB" if seed else "1GB")
        processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1 + seed / 2] * 3)
        processor.save_pretrained(tmp_path / f"{seed}")
        (tmp_path / f"{seed}" / "code.py").write_text("1 / 0")
        deletion = ["model.safetensors"] if seed else None
        commit = hub_api.upload_folder(
            repo_id="tester/vit", folder_path=tmp_path / f"{seed}", delete_patterns=deletion
        )
        commits.append(commit.oid)
        models.append(model)
    for name, revision, number in (("newest", None, 1), ("old", commits[0], 0)):
        report = convert("tester/vit", tmp_path / name, ConversionSettings(revision=revision), hub_api)
        assert same_as_stock(tmp_path / name, models[number])
        assert (report.source["name"], report.source["revision"]) == ("tester/vit", commits[number])
        assert report.preprocessing["processor"]["image_mean"] == [0.1 + number / 2] * 3
    with pytest.raises(OSError, match="there is no such repository"):
        convert("tester/none", tmp_path / "none", api=hub_api)
    with pytest.raises(OSError, match="no such revision"):
        convert("tester/vit", tmp_path / "none", ConversionSettings(revision="nowhere"), hub_api)
    with pytest.raises(ValueError, match=r"give tester/vit and --revision v2"):
        convert("tester/vit@v2", tmp_path / "none", api=hub_api)
    with pytest.raises(ValueError, match=r"--revision main is for a Hub id"):
        convert(str(tmp_path / "0"), tmp_path / "none", ConversionSettings(revision="main"), hub_api)
    with pytest.raises(ValueError, match="neither a file nor a directory"):
        open_source(f"{tmp_path.name}/nothing/deeper")
    with pytest.raises(ValueError, match="neither a file nor a directory"):
        open_source("downloads-of-nobody/vit.pth")
