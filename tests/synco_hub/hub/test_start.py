"""What a training begins with: the same numbers as the start, every tensor accounted for, and where it is from."""

import json

import pytest
import torch
from foreign_checkpoints import AUTHORS_CONFIG, created, dino, moby_like, randomised, swin, vit, yacs
from safetensors.torch import save_file
from transformers import AutoModel, SwinConfig, SwinModel, ViTConfig, ViTImageProcessor, ViTModel

from synco_hub.hub import loading, start
from synco_hub.hub.conversion.convert import convert
from synco_hub.hub.conversion.tensor_names import has_sincos_position_embedding
from synco_hub.hub.export.export import export
from synco_hub.hub.pull import install_checkpoint
from synco_hub.hub.run_checkpoints import hash_file
from synco_hub.hub.start import read_start
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor

SIDE = 48


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def save_own(directory, licence=None, **values):
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano", depth=2, **values)).eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    if licence:
        (directory / "README.md").write_text(f"---\nlicense: {licence}\n---\n\n# A card\n")
    return model


def save_stock(directory, kind="vit"):
    torch.manual_seed(1)
    if kind == "swin":
        shape = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
        model = SwinModel(SwinConfig(image_size=32, patch_size=2, **shape))
    else:
        shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192}
        model = ViTModel(ViTConfig(image_size=32, patch_size=8, **shape))
    model.save_pretrained(directory)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)
    return model.eval()


@torch.no_grad()
def features(model, images, **further):
    return model(images, **further).pooler_output


@pytest.fixture
def images():
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_at_another_size_the_first_forward_is_that_of_interpolated_positions(tmp_path, images):
    own = save_own(tmp_path / "own", licence="apache-2.0")
    state = torch.get_rng_state()
    begun = read_start(str(tmp_path / "own"), image_size=SIDE)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(features(begun.model, images), features(own, images, interpolate_pos_encoding=True))
    assert not begun.model.backbone.pos_embed.requires_grad
    assert dict(begun.processor.crop_size)["height"] == SIDE
    assert (begun.facts["base_model"], begun.facts["licence"], begun.facts["image_size"]) == ("own", "apache-2.0", 32)
    assert "positions interpolated from 32 pixels" in begun.describe()
    # Loaded again at its own size nothing is computed anew; at a further one it is interpolated on.
    begun.model.save_pretrained(tmp_path / "larger")
    begun.processor.save_pretrained(tmp_path / "larger")
    loaded = AutoModel.from_pretrained(tmp_path / "larger").eval()
    assert torch.equal(features(loaded, images), features(begun.model, images))
    other = torch.randn(1, 3, 64, 64)
    further = AutoModel.from_pretrained(tmp_path / "larger", image_size=64).eval()
    assert torch.equal(features(further, other), features(loaded, other, interpolate_pos_encoding=True))


def test_export_and_convert_recognise_interpolated_fixed_positions(tmp_path, images):
    save_own(tmp_path / "own")
    begun = read_start(str(tmp_path / "own"), image_size=SIDE)
    begun.model.save_pretrained(tmp_path / "larger")
    begun.processor.save_pretrained(tmp_path / "larger")
    export(str(tmp_path / "larger"), tmp_path / "stock", "transformers")
    convert(str(tmp_path / "stock"), tmp_path / "back")
    back = AutoModel.from_pretrained(tmp_path / "back").eval()
    assert (back.config.position_embedding, back.config.image_size) == ("sincos", SIDE)
    assert torch.allclose(features(back, images), features(begun.model, images), atol=1e-5)
    learned = back.backbone.pos_embed.detach().clone()
    learned[0, 3, 5] += 0.1
    assert not has_sincos_position_embedding(learned)


def test_a_stock_vit_has_its_own_features_and_loses_its_pooler(tmp_path):
    model = save_stock(tmp_path / "vit")
    begun = read_start(str(tmp_path / "vit"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        theirs = model(images).last_hidden_state[:, 0]
    assert torch.allclose(features(begun.model, images), theirs, atol=1e-5)
    (dropped,) = begun.facts["dropped"]
    assert "pooler" in dropped["reason"]
    assert sum(begun.facts["carried_over"].values()) + dropped["tensors"] == len(model.state_dict())
    assert begun.model.config.num_heads == 3
    assert list(begun.processor.image_mean) == [0.5] * 3
    assert begun.facts["licence"] is None
    larger = read_start(str(tmp_path / "vit"), image_size=64)
    assert dict(larger.processor.size)["height"] == 64
    wide = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = model(wide, interpolate_pos_encoding=True).last_hidden_state[:, 0]
    assert torch.allclose(features(larger.model, wide), theirs, atol=1e-5)


def test_bias_tables_of_a_swin_follow_its_window_alone(tmp_path):
    save_stock(tmp_path / "swin", "swin")
    own, larger, wider = (
        read_start(str(tmp_path / "swin"), **more) for more in ({}, {"image_size": 64}, {"window_size": 8})
    )
    key = "backbone.layers.0.blocks.0.attn.relative_position_bias_table"
    tables = [begun.model.state_dict()[key] for begun in (own, larger, wider)]
    assert torch.equal(tables[0], tables[1])
    assert [len(table) for table in tables] == [49, 49, 225]
    assert "bias tables interpolated" in wider.describe()
    with pytest.raises(ValueError, match="image_size=36 does not fit window_size=4"):
        read_start(str(tmp_path / "swin"), image_size=36)


def test_a_teacher_of_dino_a_file_of_timm_and_a_whole_state(tmp_path):
    online, target = vit(384, sincos=False, num_heads=6, seed=1), vit(384, sincos=False, num_heads=6, seed=2)
    torch.save(dino(online, target), tmp_path / "dino.pth")
    begun = read_start(str(tmp_path / "dino.pth"))
    assert torch.equal(begun.model.backbone.cls_token, target.cls_token)
    assert (begun.facts["licence"], begun.model.config.num_heads, begun.state) == ("apache-2.0", 6, {})
    assert any("the other network" in row["reason"] for row in begun.facts["dropped"])
    torch.save(
        moby_like(vit(num_heads=12, seed=1), vit(num_heads=12, seed=2), yacs(AUTHORS_CONFIG)), tmp_path / "whole.pth"
    )
    whole = read_start(str(tmp_path / "whole.pth"))
    assert {key.partition(".")[0] for key in whole.state} == {
        *("projector", "target_projector", "predictor", "queue_1", "queue_2")
    }
    assert whole.facts["pretraining"]["method"] == "synco-v2"
    assert ("target", "both networks start as the online one") in [
        (row["what"], row["reason"]) for row in whole.facts["dropped"]
    ]
    torch.save(swin(eps=1e-5).state_dict(), tmp_path / "swin.pth")
    assert read_start(str(tmp_path / "swin.pth")).model.config.window_size == 4
    torch.save(vit(dim=48, num_heads=3, sincos=False).state_dict(), tmp_path / "unknown.pth")
    with pytest.raises(ValueError, match=r"give --num-heads.*flags are of `synco-hub convert`"):
        read_start(str(tmp_path / "unknown.pth"))
    assert read_start(str(tmp_path / "unknown.pth"), num_heads=3).model.config.num_heads == 3


def test_layer_scale_of_dinov2_goes_along_and_registers_are_refused(tmp_path):
    name = "vit_small_patch14_dinov2"
    network = randomised(created(name, 0, num_classes=0, img_size=28))
    (tmp_path / "dinov2").mkdir()
    save_file(network.state_dict(), tmp_path / "dinov2" / "model.safetensors")
    cfg = {"input_size": [3, 28, 28], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 1.0}
    words = {"architecture": name, "num_classes": 0, "pretrained_cfg": {**cfg, "interpolation": "bicubic"}}
    (tmp_path / "dinov2" / "config.json").write_text(json.dumps(words))
    begun = read_start(str(tmp_path / "dinov2"))
    images = torch.randn(1, 3, 28, 28)
    with torch.no_grad():
        assert torch.allclose(features(begun.model, images), network(images), atol=1e-5)
    assert (list(begun.processor.image_std), begun.model.config.patch_size) == ([0.25] * 3, 14)
    state = {**network.state_dict(), "reg_token": torch.zeros(1, 4, 384)}
    torch.save(state, tmp_path / "registers.pth")
    with pytest.raises(ValueError, match=r"has register tokens \(reg_token\)"):
        read_start(str(tmp_path / "registers.pth"))


def test_a_classifier_and_a_licence_without_derivatives(tmp_path):
    torch.manual_seed(0)
    model = SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1, num_labels=3))
    model.save_pretrained(tmp_path / "classifier")
    image_processor(32).save_pretrained(tmp_path / "classifier")
    (tmp_path / "classifier" / "card_facts.yaml").write_text("licence: cc-by-nc-nd-4.0\n")
    begun = read_start(str(tmp_path / "classifier"))
    assert torch.equal(begun.model.backbone.norm.weight, model.synco.backbone.norm.weight)
    assert begun.facts["dropped"] == [
        {"what": "classifier", "reason": "it reads labels, which are not used", "tensors": 2}
    ]
    assert begun.forbids_derivatives
    assert begun.model.config.num_labels != 3


def test_repositories_of_the_hub_with_commit_and_licence(hub_api, tmp_path):
    save_own(tmp_path / "own", licence="cc-by-4.0")
    save_stock(tmp_path / "stock")
    (tmp_path / "stock" / "README.md").write_text("---\nlicense: mit\n---\n")
    for name, licence in (("own", "cc-by-4.0"), ("stock", "mit")):
        hub_api.create_repo(f"tester/{name}")
        commit = hub_api.upload_folder(repo_id=f"tester/{name}", folder_path=tmp_path / name).oid
        begun = read_start(f"tester/{name}", api=hub_api)
        facts = {key: begun.facts[key] for key in ("base_model", "kind", "revision")}
        assert facts == {"base_model": f"tester/{name}", "kind": "hub", "revision": commit}
        local = read_start(str(tmp_path / name))
        assert begun.facts["weights"] == local.facts["weights"]
        assert local.facts["licence"] == licence
        assert begun.facts["licence"] == licence
    with pytest.raises(OSError, match="there is no such repository"):
        read_start("tester/none", api=hub_api)


def test_what_is_no_start_is_said_in_a_line(tmp_path):
    with pytest.raises(ValueError, match="neither a directory, nor installed, nor in the zoo"):
        read_start("resnet50")
    with pytest.raises(ValueError, match="timm has no model"):
        read_start("timm:vit_of_nobody")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    save_file({"a": torch.zeros(1)}, tmp_path / "bert" / "model.safetensors")
    with pytest.raises(ValueError, match="of transformers' own models ViT and Swin"):
        read_start(str(tmp_path / "bert"))
    assert start.resize(save_own(tmp_path / "own"), None)[1] == "positions as they were"


def test_an_installed_name_a_run_that_was_stopped_and_a_network_of_timm(tmp_path, monkeypatch):
    own = save_own(tmp_path / "own")
    install_checkpoint(tmp_path / "own", "synco-v2-vit-nano")
    begun = read_start("synco-v2-vit-nano")
    assert (begun.facts["kind"], begun.facts["base_model"]) == ("zoo", "synco-v2-vit-nano")
    assert torch.equal(begun.model.backbone.cls_token, own.backbone.cls_token)
    checkpoint = tmp_path / "run" / "checkpoint-3"
    own.save_pretrained(checkpoint)
    image_processor(32).save_pretrained(checkpoint)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": hash_file(path)} for path in checkpoint.iterdir()}
    (checkpoint / "manifest.json").write_text(json.dumps({"step": 3, "files": files}))
    assert read_start(str(tmp_path / "run")).facts["base_model"] == "run/checkpoint-3"
    pair = loading._timm_model("vit_tiny_patch16_224", pretrained=False)
    monkeypatch.setattr("synco_hub.hub.conversion.source.load_model", lambda name: pair)
    monkeypatch.setattr(
        "synco_hub.hub.start.find_revision", lambda name: type("Revision", (), {"words": "a commit", "commit": None})
    )
    begun = read_start("timm:vit_tiny_patch16_224")
    assert begun.facts["kind"] == "timm"
    assert begun.facts["base_model"].startswith("timm/vit_tiny_patch16_224")
    assert list(begun.processor.image_mean) == [0.5] * 3
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(features(begun.model, images), pair[0](images), atol=1e-5)
