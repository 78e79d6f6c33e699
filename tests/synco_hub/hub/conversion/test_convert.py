import json

import pytest
import timm
import torch
from foreign_checkpoints import (
    AUTHORS_CONFIG,
    MOBY_CONFIG,
    dino,
    microsoft_names,
    moby_like,
    moco_v3,
    names_of,
    slow_sincos,
    swin,
    vit,
    yacs,
)
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.hub.conversion.configuration import Choices
from synco_hub.hub.conversion.convert import ConversionSettings, account, convert
from synco_hub.hub.conversion.recognition import recognise, split_parts
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.conversion.tensor_names import map_to_timm_names
from trainers import SynCoForPreTraining


def saved(tmp_path, content, name="source.pth"):
    torch.save(content, tmp_path / name)
    return str(tmp_path / name)


@torch.no_grad()
def difference(directory, network, seed=3):
    """Largest difference of the converted features to those of the plain timm network they came from."""
    model = AutoModel.from_pretrained(directory).eval()
    images = torch.randn(
        2, 3, model.config.image_size, model.config.image_size, generator=torch.Generator().manual_seed(seed)
    )
    expected = network.forward_head(network.forward_features(images), pre_logits=True)
    return float((model(images).pooler_output - expected).abs().max())


def config_of(directory):
    return json.loads((directory / "config.json").read_text())


def report_of(directory):
    return json.loads((directory / "conversion_report.json").read_text())


@pytest.mark.parametrize("branch", [None, "online", "target"])
def test_a_vit_of_the_authors_has_twelve_heads(tmp_path, branch):
    online, target = vit(num_heads=12, seed=1), vit(num_heads=12, seed=2)
    source = saved(tmp_path, moby_like(online, target, yacs(AUTHORS_CONFIG)))
    report = convert(source, tmp_path / "out", ConversionSettings(branch=branch))
    assert report.layout["name"] == "synco-v2"
    assert "12" in str(report.heads["num_heads"])
    assert "builds width 384" in report.heads["reason"]
    assert difference(tmp_path / "out", target if branch == "target" else online) <= 1e-6
    assert difference(tmp_path / "out", online if branch == "target" else target) > 1e-2
    written = config_of(tmp_path / "out")
    assert (written["num_heads"], written["position_embedding"]) == (12, "sincos")
    assert written["pretraining"] == {"method": "synco-v2"}
    processor = AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.crop_size["height"] == 32
    # Weights can be read by whoever can read the text files beside them.
    assert len({path.stat().st_mode for path in (tmp_path / "out").rglob("*") if path.is_file()}) == 1


def test_the_number_of_heads_can_be_overridden_and_changes_the_features(tmp_path):
    online = vit(num_heads=6)
    source = saved(tmp_path, moby_like(online, online, yacs(AUTHORS_CONFIG)))
    convert(source, tmp_path / "six", ConversionSettings(choices=Choices(num_heads=6)))
    assert difference(tmp_path / "six", online) <= 1e-6
    convert(source, tmp_path / "twelve")
    assert difference(tmp_path / "twelve", online) > 1e-2


def test_mobys_own_vit_has_six_heads_and_a_learned_position_embedding(tmp_path):
    online = vit(num_heads=6, sincos=False)
    source = saved(tmp_path, moby_like(online, vit(num_heads=6, sincos=False, seed=5)))
    report = convert(source, tmp_path / "out")
    assert report.layout["name"] == "moby"
    assert config_of(tmp_path / "out")["position_embedding"] == "learned"
    assert difference(tmp_path / "out", online) <= 1e-6


@pytest.mark.parametrize(
    ("config", "eps", "layout"), [(AUTHORS_CONFIG, "synco-v2", "synco-v2"), (MOBY_CONFIG, 1e-5, "moby")]
)
def test_swins_carry_the_epsilon_of_each_norm(tmp_path, config, eps, layout):
    online = swin(eps=eps)
    # A small input makes the epsilon visible: without the right one this test fails.
    online.patch_embed.norm.weight.data *= 1e-3
    source = saved(tmp_path, moby_like(online, swin(seed=4, eps=eps), yacs(config)))
    report = convert(source, tmp_path / "out")
    assert report.layout["name"] == layout
    assert difference(tmp_path / "out", online) <= 1e-6
    other = {"synco-v2": "moby", "moby": "synco-v2"}[layout]
    convert(source, tmp_path / "wrong", ConversionSettings(layout=other))
    assert difference(tmp_path / "wrong", online) > 1e-6
    written = config_of(tmp_path / "out")
    assert (written["num_heads"], written["window_size"], written["image_size"]) == ([2, 4], 4, 32)


def test_a_swin_without_config_is_not_guessed(tmp_path):
    source = saved(tmp_path, moby_like(swin(), swin()))
    with pytest.raises(ValueError, match="epsilon of their norms: give --layout synco-v2 or --layout moby"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["synco", "moby", "byol"])
def test_a_whole_pretraining_state_goes_on_where_it_was(tmp_path, method):
    online, target = vit(seed=1), vit(seed=2)
    config = yacs({"MODEL": {"TYPE": method, "ENCODER": "vit_small"}})
    content = moby_like(online, target, config, queue_size=0 if method == "byol" else 300)
    source = saved(tmp_path, content)
    convert(source, tmp_path / "out", ConversionSettings(whole_pretraining_state=True))
    model, info = SynCoForPreTraining.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.settings.method == {"synco": "synco-v2"}.get(method, method)
    state = content["model"]
    if method != "byol":
        for ours, theirs in ((model.queue_1, "queue1"), (model.queue_2, "queue2")):
            assert ours.keys.shape == (300, 16)
            for column in (0, 24, 299):
                assert torch.equal(ours.keys[column], state[theirs][:, column])
            assert int(ours.position) == 24
    # The heads, written out by hand.
    model.eval()
    features = torch.randn(5, 384)
    hidden = features @ state["projector_k.linear_hidden.1.weight"].T + state["projector_k.linear_hidden.1.bias"]
    mean, variance = (state[f"projector_k.linear_hidden.2.running_{kind}"] for kind in ("mean", "var"))
    hidden = (hidden - mean) / (variance + 1e-5).sqrt()
    hidden = hidden * state["projector_k.linear_hidden.2.weight"] + state["projector_k.linear_hidden.2.bias"]
    expected = hidden.clamp(min=0) @ state["projector_k.linear_out.weight"].T + state["projector_k.linear_out.bias"]
    assert (model.target_projector(features) - expected).abs().max() < 1e-3
    assert torch.equal(model.predictor[3].weight, state["predictor.linear_out.weight"])
    images = torch.randn(2, 3, 32, 32)
    assert (model.target(images).pooler_output - target(images)).abs().max() <= 1e-6
    # The features of the online network still load by AutoModel.
    assert difference(tmp_path / "out", online) <= 1e-6
    assert set(report_of(tmp_path / "out")["mapped"]) >= {"online", "target", "projector", "predictor"}


@pytest.mark.parametrize("dim", [384, 768])
def test_moco_v3(tmp_path, dim):
    online, target = vit(dim, 1, 12, seed=1), vit(dim, 1, 12, seed=2)
    source = saved(tmp_path, moco_v3(online, target), "vit-300ep.pth.tar")
    report = convert(source, tmp_path / "out")
    assert (report.layout["name"], report.heads["num_heads"]) == ("moco-v3", 12)
    assert difference(tmp_path / "out", online) <= 1e-6
    convert(source, tmp_path / "target", ConversionSettings(branch="target"))
    assert difference(tmp_path / "target", target) <= 1e-6
    assert "license: cc-by-nc-4.0" in (tmp_path / "out" / "README.md").read_text()


def test_dino_whole_files_and_backbones(tmp_path):
    student, teacher = vit(num_heads=6, sincos=False, seed=1), vit(num_heads=6, sincos=False, seed=2)
    source = saved(tmp_path, dino(student, teacher))
    report = convert(source, tmp_path / "out")
    assert (report.layout["name"], report.branch["name"]) == ("dino", "target")
    assert difference(tmp_path / "out", teacher) <= 1e-6
    convert(source, tmp_path / "online", ConversionSettings(branch="online"))
    assert difference(tmp_path / "online", student) <= 1e-6
    for number, keys in enumerate((names_of(teacher), {f"module.{k}": v for k, v in names_of(teacher).items()})):
        plain = saved(tmp_path, keys, f"plain{number}.pth")
        convert(plain, tmp_path / f"plain{number}", ConversionSettings(layout="dino"))
        assert difference(tmp_path / f"plain{number}", teacher) <= 1e-6
    with pytest.raises(ValueError, match="has no pretraining state that this package continues"):
        convert(source, tmp_path / "state", ConversionSettings(whole_pretraining_state=True))


@pytest.mark.parametrize("wrapped", [None, "model", "state_dict"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_plain_timm_files(tmp_path, wrapped, ending):
    for name, network in {"vit": vit(num_heads=6, sincos=False), "swin": swin()}.items():
        state = dict(network.state_dict())
        source = tmp_path / f"{name}.{ending}"
        if ending == "pth":
            torch.save({wrapped: state} if wrapped else state, source)
        elif wrapped:
            continue
        else:
            save_file(state, source)
        report = convert(str(source), tmp_path / name, ConversionSettings(choices=Choices(image_size=32)))
        assert report.layout["name"] == "timm"
        assert difference(tmp_path / name, network) <= 1e-6


def test_a_name_of_timm(tmp_path, monkeypatch):
    """What timm would download is made here; everything else is as with a network."""
    real = timm.create_model

    def create_model(model_name, pretrained=False, **kwargs):
        return (
            downloaded.setdefault(model_name, real(model_name, **kwargs)) if pretrained else real(model_name, **kwargs)
        )

    downloaded = {}
    monkeypatch.setattr("timm.create_model", create_model)
    name = "vit_tiny_patch16_224"
    convert(f"timm:{name}", tmp_path / "out")
    assert difference(tmp_path / "out", downloaded[name].eval()) <= 1e-6
    assert config_of(tmp_path / "out")["num_heads"] == 3


@pytest.mark.parametrize("network", [vit(num_heads=12), swin(eps="synco-v2")], ids=["vit", "swin"])
def test_linear_heads_make_classifiers(tmp_path, network):
    """The authors' linear-probe file: backbone keys without a beginning, and the head."""
    weight, bias = torch.randn(7, network.num_features), torch.randn(7)
    content = {"model": {**names_of(network), "head.weight": weight, "head.bias": bias}, "epoch": 99}
    source = saved(tmp_path, {**content, "config": yacs({"MODEL": {"TYPE": "linear", "ENCODER": "any"}})})
    convert(source, tmp_path / "out")
    head_only = saved(tmp_path, {"state_dict": {"module.linear.weight": weight, "module.linear.bias": bias}}, "h.pth")
    backbone = saved(tmp_path, moby_like(network, network, yacs(AUTHORS_CONFIG)), "b.pth")
    convert(backbone, tmp_path / "joined", ConversionSettings(head=head_only))
    images = torch.randn(2, 3, 32, 32)
    expected = network.forward_head(network.forward_features(images), pre_logits=True) @ weight.T + bias
    for directory in ("out", "joined"):
        model, info = AutoModelForImageClassification.from_pretrained(tmp_path / directory, output_loading_info=True)
        assert not info["missing_keys"]
        with torch.no_grad():
            assert (model.eval()(images).logits - expected).abs().max() <= 2e-5
        assert model.config.num_labels == 7


def test_a_head_that_does_not_fit_is_refused(tmp_path):
    source = saved(tmp_path, moby_like(vit(), vit(), yacs(AUTHORS_CONFIG)))
    wide = saved(tmp_path, {"linear.weight": torch.zeros(5, 4 * 384), "linear.bias": torch.zeros(5)}, "wide.pth")
    with pytest.raises(ValueError, match="reads 1536 features, but the backbone gives 384"):
        convert(source, tmp_path / "out", ConversionSettings(head=wide))
    with pytest.raises(ValueError, match="has no linear layer"):
        convert(source, tmp_path / "out", ConversionSettings(head=source))
    assert not (tmp_path / "out").exists()


def _without(key):
    return lambda state: state.pop(key)


def _set(key, value):
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("encoder.blocks.1.mlp.fc1.bias"), "1 missing: blocks.1.mlp.fc1.bias"),
        (_set("encoder.dist_token", torch.zeros(1, 1, 384)), "1 left over: dist_token"),
        (_set("encoder.blocks.0.attn.proj.weight", torch.zeros(384, 380)), r"\(384, 380\) instead of \(384, 384\)"),
        (_set("teacher.blocks.0.norm1.weight", torch.zeros(3)), "do not belong to the layout 'synco-v2': teacher"),
        (_set("encoder.norm.weight", torch.full((384,), float("nan"))), "norm.weight holds NaN or infinite"),
        (_set("encoder.pos_embed", torch.zeros(1, 7, 384)), "do not fit"),
        (_set("encoder.note", "text"), "are no tensors"),
        (_set("encoder.blocks.99999.norm1.weight", torch.zeros(384)), "'blocks.99999.norm1.weight' does not fit"),
        (_set("encoder.cls_token", torch.zeros(1, 0, 384 * 10**4)), "do not fit"),
        (_set("encoder.pos_embed", torch.zeros(1, 5, 0)), "do not fit"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, spoil, message):
    content = moby_like(vit(), vit(), yacs(AUTHORS_CONFIG))
    spoil(content["model"])
    source = saved(tmp_path, content)
    with pytest.raises(ValueError, match=message) as error:
        convert(source, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source.pth"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("queue2"), "queue2"),
        (_set("queue_ptr", torch.tensor([300])), "pointer is"),
        (_set("queue1", torch.zeros(300, 16)), "queues have shapes"),
        (_set("projector.linear_hidden.4.weight", torch.zeros(2)), "projector is not Linear, BatchNorm"),
        (_without("predictor.linear_out.bias"), "predictor is not Linear"),
        (_without("encoder_k.norm.bias"), "the target backbone do not fit"),
    ],
)
def test_a_pretraining_state_is_whole_or_refused(tmp_path, spoil, message):
    content = moby_like(vit(), vit(), yacs(AUTHORS_CONFIG))
    spoil(content["model"])
    with pytest.raises(ValueError, match=message):
        convert(saved(tmp_path, content), tmp_path / "out", ConversionSettings(whole_pretraining_state=True))
    assert not (tmp_path / "out").exists()


def test_the_report_accounts_for_every_tensor_and_the_checksum_tells_weights_apart(tmp_path):
    import hashlib

    reports = []
    for seed in (1, 1, 2):
        source = saved(
            tmp_path, moby_like(swin(seed, "synco-v2"), swin(9), yacs(AUTHORS_CONFIG)), f"{len(reports)}.pth"
        )
        convert(source, tmp_path / f"out{len(reports)}")
        reports.append(report_of(tmp_path / f"out{len(reports)}"))
        digest = hashlib.sha256((tmp_path / f"{len(reports) - 1}.pth").read_bytes()).hexdigest()
        assert reports[-1]["source"]["sha256"] == digest
    first, same, other = (report["features"] for report in reports)
    assert first["sha256"] == same["sha256"] != other["sha256"]
    assert first["first_values"] != other["first_values"]
    report, total = reports[0], reports[0]["tensors_in_file"]
    assert sum(report["mapped"].values()) + sum(row["tensors"] for row in report["dropped"]) == total
    assert report["clean"] is True
    assert report["leftover"] == report["missing"] == report["wrong_shaped"] == []
    masks = [key for row in report["dropped"] for key in row["keys"] if key.endswith(("attn_mask", "position_index"))]
    assert len(masks) >= 5
    assert {"torch", "timm", "transformers"} <= set(report["versions"])


def test_what_is_there_is_never_written_over(tmp_path):
    source = saved(tmp_path, moby_like(vit(), vit(), yacs(AUTHORS_CONFIG)))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for output in (tmp_path / "full", tmp_path / "source.pth"):
        with pytest.raises(ValueError, match="is not an empty folder"):
            convert(source, output)
    (tmp_path / "empty").mkdir()
    convert(source, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()


def test_a_converted_directory_and_unknown_things_are_refused(tmp_path):
    source = saved(tmp_path, moby_like(vit(), vit(), yacs(AUTHORS_CONFIG)))
    convert(source, tmp_path / "out")
    with pytest.raises(ValueError, match="is a checkpoint of this package already"):
        convert(str(tmp_path / "out"), tmp_path / "again")
    for content, message in (
        ([torch.zeros(2)], "holds a list"),
        ({"a": 1}, "no dictionary of tensors|has none of the known layouts"),
        ({"conv1.weight": torch.zeros(2)}, "has none of the known layouts"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(saved(tmp_path, content, "x.pth"), tmp_path / "again")
    with pytest.raises(ValueError, match=r"is unknown: use one of auto.*Did you mean 'moby'"):
        convert(source, tmp_path / "again", ConversionSettings(layout="mobi"))
    with pytest.raises(ValueError, match="neither a file nor a directory"):
        convert(str(tmp_path / "nowhere.pth"), tmp_path / "again")


def test_bfloat16_checkpoints_become_float32(tmp_path):
    online = vit()
    content = moby_like(online.bfloat16(), online, yacs(AUTHORS_CONFIG))
    convert(saved(tmp_path, content), tmp_path / "out")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


@pytest.mark.parametrize("kind", ["deit-s", pytest.param("swin-t", marks=pytest.mark.slow)])
def test_full_size(tmp_path, kind):
    if kind == "deit-s":
        online = timm.create_model("vit_small_patch16_224", num_classes=0, num_heads=6)
        state = {"encoder." + key: value for key, value in online.state_dict().items()}
    else:
        online = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
        state = {"encoder." + key: value for key, value in microsoft_names(online).items()}
    source = saved(tmp_path, {"model": state})
    report = convert(source, tmp_path / "out", ConversionSettings(layout="moby"))
    assert report.backbone["backbone"] == kind
    assert difference(tmp_path / "out", online.eval()) <= 1e-6
    assert sum(report.mapped.values()) == {"deit-s": 150, "swin-t": 171}[kind]


@pytest.mark.parametrize("whole", [False, True])
def test_carried_over_and_dropped_add_up(whole):
    content = moby_like(swin(), swin(), AUTHORS_CONFIG)
    content["optimizer"] = {"state": [torch.zeros(1)] * 3}
    source = CheckpointSource("x.pth", "torch", None, content)
    parts = split_parts(source, recognise(source))
    kept = ("online", "target") if whole else ("online",)
    backbones = {name: map_to_timm_names(parts.tensors[name]) for name in kept}
    mapped, dropped, total = account(source, parts, backbones, whole, True)
    assert total == len(content["model"]) + 3
    assert sum(mapped.values()) + sum(row["tensors"] for row in dropped) == total
    assert mapped["online"] == len(swin().state_dict())
    assert ("queue" in mapped) is whole
    by_name = {row["what"]: row for row in dropped}
    assert by_name["optimizer"]["tensors"] == 3
    assert ("target" in by_name) is not whole
    assert by_name["keys of online"]["reason"] == "computed from the window"


def test_a_tensor_that_went_nowhere_is_our_own_mistake():
    content = moby_like(swin(), swin(), AUTHORS_CONFIG)
    source = CheckpointSource("x.pth", "torch", None, content)
    parts = split_parts(source, recognise(source))
    backbone = map_to_timm_names(parts.tensors["online"])
    del parts.tensors["queue"]
    with pytest.raises(AssertionError, match="are accounted for"):
        account(source, parts, {"online": backbone}, False, True)


@pytest.mark.parametrize("sincos", [True, False])
def test_a_vit_is_converted_for_another_image_size(tmp_path, sincos):
    network = vit(sincos=sincos, seed=5)
    source = saved(tmp_path, moby_like(network, network, yacs(AUTHORS_CONFIG)))
    report = convert(source, tmp_path / "out", ConversionSettings(choices=Choices(image_size=64)))
    how = "computed anew" if sincos else "interpolated"
    assert f"the position embedding of 2 x 2 patches was {how} for 4 x 4" in report.renamed
    expected = timm.layers.resample_abs_pos_embed(network.pos_embed.detach(), [4, 4], num_prefix_tokens=1)
    expected = slow_sincos((4, 4), 384) if sincos else expected
    model = AutoModel.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(model.backbone.pos_embed.detach(), expected, rtol=1e-4, atol=1e-5)
    assert model.backbone.pos_embed.requires_grad is not sincos
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").crop_size["height"] == 64
