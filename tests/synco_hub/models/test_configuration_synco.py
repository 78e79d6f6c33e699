import json

import pytest
from transformers import AutoConfig

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.models import BACKBONES, SynCoConfig, SynCoModel


@pytest.mark.parametrize("backbone", [*BACKBONES, "vit_small_patch16_384", "swin_tiny_patch4_window7_224"])
def test_every_number_survives_config_json(backbone, tmp_path):
    config = SynCoConfig(backbone, drop_path_rate=0.1, num_labels=7, pretraining={"method": "moby", "counts": [1, 2]})
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is SynCoConfig
    names = ["backbone", "image_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "window_size"]
    names += ["drop_path_rate", "position_embedding", "layer_norm_eps", "hidden_size", "pretraining", "num_labels"]
    for name in names:
        assert getattr(loaded, name) == getattr(config, name), name
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == "synco"
    for name in ("image_size", "patch_size", "embed_dim", "depth", "num_heads"):
        assert written[name] is not None, name


def test_heads_of_the_paper_and_of_the_authors_code_are_told_apart(tmp_path):
    assert SynCoConfig().num_heads == SynCoConfig("deit-s").num_heads == 6
    SynCoConfig("deit-s", num_heads=12).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).num_heads == 12


def test_the_names_of_the_ecosystem():
    config = SynCoConfig("swin-t")
    assert config.num_attention_heads == [3, 6, 12, 24]
    assert config.num_hidden_layers == [2, 2, 6, 2]
    assert SynCoConfig("deit-s").num_hidden_layers == 12
    assert SynCoConfig("deit-s", id2label={0: "ibex", 1: "chough", 2: "pika"}).num_labels == 3


@pytest.mark.parametrize(
    ("numbers", "width"),
    [
        ({"backbone": "deit-s"}, 384),
        ({"backbone": "vit-l"}, 1024),
        ({"backbone": "swin-t"}, 768),
        ({"backbone": "swin-b"}, 1024),
        ({"backbone": "swin-nano", "depth": [1, 1, 1], "num_heads": [2, 4, 8]}, 192),
        ({"backbone": "swin_large_patch4_window7_224"}, 1536),
        # It follows from the rest: a wrong one in a config.json does no harm.
        ({"backbone": "vit-nano", "hidden_size": 999}, 96),
    ],
)
def test_hidden_size_follows(numbers, width):
    assert SynCoConfig(**numbers).hidden_size == width


def test_fixed_position_embedding_is_for_the_papers_vits_only():
    assert SynCoConfig("deit-s").position_embedding == "sincos"
    assert SynCoConfig("deit-s", position_embedding="learned").position_embedding == "learned"
    assert SynCoConfig("swin-t").position_embedding is None
    assert SynCoConfig("deit_small_patch16_224").position_embedding is None
    assert SynCoConfig("deit_small_patch16_224", position_embedding="sincos").position_embedding == "sincos"


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"backbone": "deit_s"}, "backbone='deit_s' is unknown.*Did you mean.*'deit-s'"),
        ({"backbone": "swin_t"}, "Did you mean.*'swin-t'"),
        ({"backbone": "resnet50"}, "backbone='resnet50' is neither a ViT nor a Swin"),
        (
            {"num_heads": 7},
            r"num_heads=7 does not divide the width 384.*use one of \[1, 2, 3, 4, 6, 8, 12, 16, 24, 32\]",
        ),
        ({"backbone": "swin-t", "num_heads": [3, 6, 12, 23]}, "num_heads=23 does not divide the width 768"),
        ({"backbone": "deit_small_patch16_224", "num_heads": 5}, "num_heads=5 does not divide the width 384"),
        ({"num_heads": 0}, "num_heads=0 is not positive"),
        ({"num_heads": -6}, "num_heads=-6 is not positive"),
        ({"depth": 0}, "depth=0 is not positive"),
        ({"backbone": "swin-t", "depth": [], "num_heads": []}, r"depth=\[\] is not positive"),
        ({"depth": [6, 6]}, r"depth=\[6, 6\] does not suit 'deit-s': give one number"),
        ({"backbone": "swin-t", "depth": 12}, "depth=12 does not suit 'swin-t': give a list with one number a stage"),
        ({"backbone": "swin-t", "num_heads": 3}, "num_heads=3 does not suit 'swin-t'"),
        ({"backbone": "swin-t", "depth": [2, 2]}, r"depth=\[2, 2\] has 2 stages, num_heads=.* has 4"),
        ({"image_size": 225}, "image_size=225 is not a multiple of patch_size=16: use 224 or 240"),
        ({"image_size": 8}, "image_size=8 is not a multiple of patch_size=16: use 16 or 32"),
        ({"patch_size": 15}, "image_size=224 is not a multiple of patch_size=15"),
        (
            {"backbone": "vit_small_patch16_224", "image_size": 230},
            "image_size=230 is not a multiple of patch_size=16",
        ),
        ({"image_size": 0}, "image_size=0 is not positive"),
        ({"patch_size": -1}, "patch_size=-1 is not positive"),
        ({"num_channels": 0}, "num_channels=0 is not positive"),
        ({"embed_dim": 0}, "embed_dim=0 is not positive"),
        ({"mlp_ratio": 0}, "mlp_ratio=0 is not positive"),
        ({"backbone": "swin-t", "image_size": 256}, "image_size=256 does not fit window_size=7.*a multiple of 224"),
        ({"backbone": "swin-t", "window_size": 8}, "image_size=224 does not fit window_size=8.*a multiple of 256"),
        ({"backbone": "swin-nano", "image_size": 40}, "image_size=40 does not fit window_size=4.*a multiple of 16"),
        # The last stage would have half a patch.
        ({"backbone": "swin-nano", "image_size": 6}, "image_size=6 does not fit"),
        ({"window_size": 7}, "window_size=7 was given for 'deit-s', but a ViT attends globally"),
        ({"position_embedding": "sincoss"}, "position_embedding='sincoss' is not known.*Did you mean 'sincos'"),
        ({"position_embedding": ""}, "position_embedding='' is not known"),
        ({"backbone": "swin-t", "position_embedding": "sincos"}, "a Swin has relative position biases"),
        ({"backbone": "swin_tiny_patch4_window7_224", "position_embedding": "learned"}, "relative position biases"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate=1.0 is not in \[0, 1\)"),
        ({"drop_path_rate": -0.1}, "drop_path_rate=-0.1"),
        ({"classifier_dropout": 1.5}, r"classifier_dropout=1.5 is not in \[0, 1\)"),
        ({"layer_norm_eps": {"norm1": 1e-6}}, r"layer_norm_eps names \['norm1'\], but the kinds are \['block_att"),
    ],
)
def test_impossible_numbers_are_refused_with_value_rule_and_remedy(numbers, message):
    with pytest.raises(ValueError, match=message) as error:
        SynCoConfig(**numbers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "numbers",
    [
        {"backbone": "swin-t", "image_size": 448},
        {"backbone": "swin-t", "image_size": 384, "window_size": 12},
        # Windows larger than a stage's grid shrink to it.
        {"backbone": "swin-t", "image_size": 32, "window_size": 8},
        {"backbone": "swin-v2-t", "image_size": 512},
        {"backbone": "vit-nano", "image_size": 96, "patch_size": 6, "num_heads": 16, "depth": 1},
        {"backbone": "swin-nano", "depth": (1, 3), "num_heads": (3, 6)},
    ],
)
def test_possible_numbers_are_taken(numbers):
    config = SynCoConfig(**numbers)
    for name, value in numbers.items():
        assert getattr(config, name) == (list(value) if isinstance(value, tuple) else value)


def test_numbers_set_behind_the_constructors_back_are_checked_when_a_network_is_built(tmp_path):
    SynCoConfig("vit-nano").save_pretrained(tmp_path)
    overridden = AutoConfig.from_pretrained(tmp_path, num_heads=5)
    with pytest.raises(ValueError, match="num_heads=5 does not divide the width 96"):
        SynCoModel(overridden)
    wider = AutoConfig.from_pretrained(tmp_path, embed_dim=48)
    SynCoModel(wider)
    assert wider.hidden_size == 48
