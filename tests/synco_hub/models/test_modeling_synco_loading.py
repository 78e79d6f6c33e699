"""Saving and loading: the same network to the last bit, or an error; with the package and without it."""

import json

import pytest
import torch
from foreign_checkpoints import slow_sincos
from safetensors.torch import load_file, save_file
from small_networks import SWIN_V2, run_without_the_package, stir
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel

CONFIGS = {
    "vit": {"backbone": "vit-nano", "drop_path_rate": 0.1},
    "vit-learned": {"backbone": "vit-nano", "position_embedding": "learned", "num_heads": 8},
    "swin": {"backbone": "swin-nano", "layer_norm_eps": {"block_mlp": 1e-3, "final": 1e-2}},
    "swin-v2": SWIN_V2,
    "timm": {"backbone": "deit_tiny_distilled_patch16_224", "image_size": 32, "depth": 2},
}
every_config = pytest.mark.parametrize("numbers", CONFIGS.values(), ids=CONFIGS.keys())


def _model(numbers: dict, seed: int, cls: type = SynCoModel) -> SynCoModel:
    torch.manual_seed(seed)
    return stir(cls(SynCoConfig(**numbers)).eval())


def _images(seed: int) -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _assert_same(found, wanted, seed: int) -> None:
    """Parameters, buffers that no checkpoint holds, epsilons and outputs, all to the last bit."""
    for kind in ("named_parameters", "named_buffers"):
        ours, theirs = dict(getattr(found, kind)()), dict(getattr(wanted, kind)())
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype, name
            assert torch.equal(ours[name], value), name
    eps = [[m.eps for m in model.modules() if hasattr(m, "eps")] for model in (found, wanted)]
    assert eps[0] == eps[1]
    with torch.no_grad():
        one, other = (m(_images(seed), output_hidden_states=True, return_dict=False) for m in (found, wanted))
    for ours, theirs in zip(one, other, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)


def _edit_weights(directory, change) -> None:
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def _edit_config(directory, **numbers) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | numbers))


# ---- bit for bit


@every_config
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_comes_back_bit_for_bit(numbers, dtype, tmp_path):
    model = _model(numbers, seed=11).to(dtype)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, dtype=dtype)
    assert type(loaded) is SynCoModel
    assert not loaded.training
    _assert_same(loaded, model, seed=12)
    assert loaded.config.num_heads == model.config.num_heads


@pytest.mark.parametrize("numbers", [CONFIGS["swin"], CONFIGS["swin-v2"]], ids=["swin", "swin-v2"])
def test_there_are_buffers_that_only_code_can_fill(numbers, tmp_path):
    model = _model(numbers, seed=13)
    unsaved = dict(model.named_buffers()).keys() - model.state_dict().keys()
    assert len(unsaved) >= 4
    model.save_pretrained(tmp_path)
    assert not load_file(tmp_path / "model.safetensors").keys() & unsaved


@every_config
def test_a_float32_checkpoint_loaded_as_bfloat16_is_the_cast_model(numbers, tmp_path):
    model = _model(numbers, seed=14)
    model.save_pretrained(tmp_path)
    _assert_same(SynCoModel.from_pretrained(tmp_path, dtype=torch.bfloat16), model.to(torch.bfloat16), seed=15)


@every_config
def test_a_classifier_comes_back_bit_for_bit(numbers, tmp_path):
    model = _model({**numbers, "id2label": {0: "a", 1: "b", 2: "c"}}, seed=16, cls=SynCoForImageClassification)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is SynCoForImageClassification
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    _assert_same(loaded, model, seed=17)


def test_shards_come_back_too(tmp_path):
    model = _model(CONFIGS["vit"], seed=18)
    model.save_pretrained(tmp_path, max_shard_size="500KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    _assert_same(AutoModel.from_pretrained(tmp_path), model, seed=19)


def test_saving_is_left_to_the_main_process(tmp_path):
    _model(CONFIGS["vit"], seed=20).save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.glob("*.py"))
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("backbone", ["deit-s", "swin-t", "swin-v2-t", "vit_small_patch16_224"])
def test_is_built_on_the_meta_device_without_memory(backbone):
    with torch.device("meta"):
        model = SynCoForImageClassification(SynCoConfig(backbone))
        output = model(torch.empty(1, 3, model.config.image_size, model.config.image_size))
    assert all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers(), output.logits))
    if backbone == "deit-s":
        assert not model.synco.backbone.pos_embed.requires_grad


# ---- what is fixed stays frozen


def _frozen(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def test_the_fixed_position_embedding_stays_frozen(tmp_path):
    model = _model(CONFIGS["vit"], seed=21)
    assert _frozen(model) == {"backbone.pos_embed"}
    model.save_pretrained(tmp_path)
    assert _frozen(SynCoModel.from_pretrained(tmp_path)) == {"backbone.pos_embed"}
    assert _frozen(AutoModel.from_pretrained(tmp_path)) == {"backbone.pos_embed"}
    assert _frozen(AutoModelForImageClassification.from_pretrained(tmp_path)) == {"synco.backbone.pos_embed"}
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert _frozen(loaded) == {"backbone.pos_embed"}
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_a_learned_one_stays_trainable(tmp_path):
    _model(CONFIGS["vit-learned"], seed=22).save_pretrained(tmp_path)
    assert not _frozen(AutoModel.from_pretrained(tmp_path))
    assert not _frozen(AutoModelForImageClassification.from_pretrained(tmp_path))


# ---- from one kind of checkpoint to another


@every_config
def test_a_classifier_from_a_backbones_checkpoint_has_a_fresh_head_only(numbers, tmp_path):
    model = _model(numbers, seed=31)
    model.save_pretrained(tmp_path)
    torch.manual_seed(32)
    loaded, info = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=50, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    _assert_same(loaded.synco, model, seed=33)
    assert loaded.classifier.weight.shape == (50, model.config.hidden_size)
    assert loaded.classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not loaded.classifier.bias.any()


def test_a_backbone_from_a_classifiers_checkpoint(tmp_path):
    model = _model(CONFIGS["swin"], seed=34, cls=SynCoForImageClassification)
    model.save_pretrained(tmp_path)
    _assert_same(AutoModel.from_pretrained(tmp_path), model.synco, seed=35)


def _save_like_pretraining(directory, numbers: dict, seed: int) -> SynCoModel:
    """A checkpoint with an online and a target network, heads, queues and counters, as a run leaves it."""
    online, target = _model(numbers, seed), _model(numbers, seed + 1)
    online.save_pretrained(directory)
    state = {f"synco.{name}": value for name, value in online.state_dict().items()}
    state |= {f"target.{name}": value for name, value in target.state_dict().items()}
    for head in ("projector", "target_projector", "predictor"):
        state[f"{head}.0.weight"] = torch.randn(8, 4)
        state[f"{head}.1.num_batches_tracked"] = torch.tensor(3)
    for queue in ("queue_1", "queue_2"):
        state[f"{queue}.keys"] = torch.randn(16, 8)
        state[f"{queue}.position"] = torch.tensor(5)
    _edit_weights(directory, lambda _: {name: value.contiguous() for name, value in state.items()})
    _edit_config(directory, architectures=["SynCoForPreTraining"])
    return online


@pytest.mark.parametrize("numbers", [CONFIGS["vit"], CONFIGS["swin"]], ids=["vit", "swin"])
def test_a_pretraining_checkpoint_gives_the_online_backbone(numbers, tmp_path):
    online = _save_like_pretraining(tmp_path, numbers, seed=36)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    _assert_same(loaded, online, seed=38)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    classifier, info = AutoModelForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    _assert_same(classifier.synco, online, seed=39)
    assert set(info["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert not info["unexpected_keys"]


# ---- never a random network


LOADERS = [AutoModel, AutoModelForImageClassification, SynCoModel, SynCoForImageClassification]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("key", ["backbone.cls_token", "backbone.blocks.1.attn.qkv.weight", "backbone.pos_embed"])
def test_one_lacking_weight_is_an_error(loader, key, tmp_path):
    _model(CONFIGS["vit"], seed=41).save_pretrained(tmp_path)
    _edit_weights(tmp_path, lambda state: {name: value for name, value in state.items() if name != key})
    with pytest.raises(ValueError, match=rf"backbone is not the config's: 1 weights are missing \(first: \[.*{key}"):
        loader.from_pretrained(tmp_path)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("prefix", ["model.", "module.", "encoder.", "target."])
def test_foreign_key_names_are_an_error(loader, prefix, tmp_path):
    _model(CONFIGS["swin"], seed=42).save_pretrained(tmp_path)
    _edit_weights(tmp_path, lambda state: {prefix + name: value for name, value in state.items()})
    with pytest.raises(ValueError, match=r"weights are missing.*foreign checkpoint"):
        loader.from_pretrained(tmp_path)


@pytest.mark.parametrize("loader", LOADERS)
def test_a_checkpoint_deeper_or_shallower_than_its_config_is_an_error(loader, tmp_path):
    _model(CONFIGS["vit"], seed=43).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"12 weights are in the checkpoint only \(first: .*blocks\.2\."):
        loader.from_pretrained(tmp_path, depth=2)
    with pytest.raises(ValueError, match=r"12 weights are missing \(first: .*blocks\.3\."):
        loader.from_pretrained(tmp_path, depth=4)


@pytest.mark.parametrize("loader", LOADERS)
def test_another_shape_is_an_error_even_where_mismatches_are_ignored(loader, tmp_path):
    _model(CONFIGS["vit"], seed=44).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="mismatch"):
        loader.from_pretrained(tmp_path, patch_size=4)
    with pytest.raises(ValueError, match=r"2 weights have another shape \(first: .*backbone\.patch_embed"):
        loader.from_pretrained(tmp_path, patch_size=4, ignore_mismatched_sizes=True)


def test_a_classifier_of_another_size_may_be_replaced(tmp_path):
    model = _model({**CONFIGS["vit"], "num_labels": 5}, seed=45, cls=SynCoForImageClassification)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded.classifier.weight.shape == (7, 96)
    assert loaded.classifier.weight.std().item() == pytest.approx(0.01, rel=0.2)
    _assert_same(loaded.synco, model.synco, seed=46)


def test_numbers_that_change_no_shape_are_read_from_the_config(tmp_path):
    model = _model({"backbone": "vit-nano", "num_heads": 8}, seed=47)
    model.save_pretrained(tmp_path)
    images = _images(48)
    with torch.no_grad():
        right = AutoModel.from_pretrained(tmp_path)(images).pooler_output
        wrong = AutoModel.from_pretrained(tmp_path, num_heads=4)(images).pooler_output
    assert torch.equal(right, model(images).pooler_output)
    assert not torch.allclose(right, wrong, atol=1e-3)
    with pytest.raises(ValueError, match="num_heads=5 does not divide the width 96"):
        AutoModel.from_pretrained(tmp_path, num_heads=5)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_attention_asked_for_at_loading(kind, tmp_path):
    _model(CONFIGS[kind], seed=49).save_pretrained(tmp_path)
    for wish in ({"attn_implementation": "eager"}, {"attn_implementation": "sdpa"}, {"output_attentions": True}):
        loaded = AutoModel.from_pretrained(tmp_path, **wish)
        fused = {m.fused_attn for m in loaded.modules() if hasattr(m, "fused_attn")}
        assert fused == {wish.get("attn_implementation") == "sdpa"}
        with torch.no_grad():
            attentions = loaded(_images(50)).attentions
        assert (attentions is not None) == ("output_attentions" in wish)


# ---- the checkpoint carries its code


def test_a_checkpoint_carries_its_code_and_says_which_classes(tmp_path):
    for cls in (SynCoModel, SynCoForImageClassification):
        _model(CONFIGS["vit"], seed=51, cls=cls).save_pretrained(tmp_path / cls.__name__)
        assert json.loads((tmp_path / cls.__name__ / "config.json").read_text())["auto_map"] == {
            "AutoConfig": "configuration_synco.SynCoConfig",
            "AutoModel": "modeling_synco.SynCoModel",
            "AutoModelForImageClassification": "modeling_synco.SynCoForImageClassification",
            "AutoBackbone": "modeling_synco.SynCoBackbone",
        }
        sources = {path.name: path.read_text() for path in (tmp_path / cls.__name__).glob("*.py")}
        assert "modeling_synco.py" in sources
        for name, source in sources.items():
            assert name.endswith("_synco.py")
            assert "synco_hub" not in source.replace("synco-hub", ""), name
            for line in source.splitlines():
                if line.startswith("from ."):
                    assert line.split()[1][1:] + ".py" in sources, line


WITHOUT_THE_PACKAGE = """
    from pathlib import Path

    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
    folder = Path(sys.argv[1])
    images = torch.load(folder / "images.pt")
    for kind in ("vit", "swin"):
        directory = folder / kind
        assert type(AutoConfig.from_pretrained(directory, trust_remote_code=True)).__name__ == "SynCoConfig"
        with torch.no_grad():
            model = AutoModel.from_pretrained(directory, trust_remote_code=True)
            output = model(images, output_attentions=True)
            classifier = AutoModelForImageClassification.from_pretrained(directory, trust_remote_code=True)
            pooled = classifier.synco(images).pooler_output
        assert "synco_hub" not in sys.modules
        assert type(model).__module__.startswith("transformers_modules")
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        torch.save((output.pooler_output, output.attentions, pooled, frozen), folder / f"{kind}.pt")
        model.save_pretrained(folder / f"{kind}-again")  # what was loaded so carries its code on
"""


def test_trust_remote_code_loads_both_auto_classes_without_the_package(tmp_path):
    images = _images(52)
    torch.save(images, tmp_path / "images.pt")
    models = {kind: _model(CONFIGS[kind], seed=53) for kind in ("vit", "swin")}
    for kind, model in models.items():
        model.save_pretrained(tmp_path / kind)
    run_without_the_package(WITHOUT_THE_PACKAGE, tmp_path, tmp_path, HF_HUB_OFFLINE="1")
    for kind, model in models.items():
        pooled, attentions, pooled_below_classifier, frozen = torch.load(tmp_path / f"{kind}.pt")
        with torch.no_grad():
            expected = model(images, output_attentions=True)
        torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(pooled_below_classifier, expected.pooler_output, rtol=1e-5, atol=1e-5)
        assert len(attentions) == len(expected.attentions)
        assert frozen == (["backbone.pos_embed"] if kind == "vit" else [])
        names = {path.name for path in (tmp_path / kind).glob("*.py")}
        assert {path.name for path in (tmp_path / f"{kind}-again").glob("*.py")} == names
        _assert_same(AutoModel.from_pretrained(tmp_path / f"{kind}-again"), model, seed=54)


def test_with_the_package_its_own_classes_are_used_and_nobody_is_asked(tmp_path):
    _model(CONFIGS["vit"], seed=55).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is SynCoConfig
    assert type(AutoModel.from_pretrained(tmp_path)) is SynCoModel


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForImageClassification])
@pytest.mark.parametrize("size", [8, 40, 64])
def test_at_another_image_size_a_fixed_position_embedding_is_computed_and_stays_fixed(auto, size, tmp_path, caplog):
    model = _model({"backbone": "vit-nano"}, seed=61)
    model.save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path, image_size=size)
    network = getattr(loaded, "synco", loaded)
    grid = size // 8
    expected = slow_sincos((grid, grid), 96)
    torch.testing.assert_close(network.backbone.pos_embed.detach(), expected, rtol=1e-4, atol=1e-5)
    assert not network.backbone.pos_embed.requires_grad
    for name, weights in model.backbone.state_dict().items():
        assert name == "pos_embed" or torch.equal(network.backbone.state_dict()[name], weights)
    assert loaded(torch.randn(1, 3, size, size))[0].isfinite().all()
    loaded.save_pretrained(tmp_path / "again")
    again = auto.from_pretrained(tmp_path / "again")
    assert again.config.image_size == size
    assert torch.equal(getattr(again, "synco", again).backbone.pos_embed, network.backbone.pos_embed)


def test_at_another_image_size_a_learned_position_embedding_is_interpolated(tmp_path):
    model = _model({"backbone": "vit-nano", "position_embedding": "learned"}, seed=62)
    model.save_pretrained(tmp_path)
    loaded = SynCoModel.from_pretrained(tmp_path, image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images, interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(loaded(images).pooler_output, expected)
    assert loaded.backbone.pos_embed.requires_grad


def test_a_swin_takes_the_sizes_of_its_windows(tmp_path):
    model = _model({"backbone": "swin-nano"}, seed=63)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images, interpolate_pos_encoding=True).pooler_output
        torch.testing.assert_close(loaded(images).pooler_output, expected)
    with pytest.raises(ValueError, match="use a multiple of 16"):
        AutoModel.from_pretrained(tmp_path, image_size=40)
    with pytest.raises(RuntimeError, match="a Swin takes the image sizes at which its windows stay as large"):
        AutoModel.from_pretrained(tmp_path, image_size=8)


def test_other_weights_of_another_shape_are_refused_unless_that_is_said(tmp_path):
    SynCoForImageClassification(SynCoConfig("vit-nano", num_labels=3)).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match=r"2 weights mismatch .*'classifier.bias', .*ignore_mismatched_sizes"):
        AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5)
    loaded = AutoModelForImageClassification.from_pretrained(
        tmp_path, num_labels=5, image_size=64, ignore_mismatched_sizes=True
    )
    assert loaded(torch.randn(1, 3, 64, 64)).logits.shape == (1, 5)
