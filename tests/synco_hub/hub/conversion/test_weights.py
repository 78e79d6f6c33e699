import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.data import ImageNetInfo

from synco_hub.hub.conversion.weights import (
    check_depth,
    class_names,
    describe_directory_misfit,
    describe_misfit,
    finite,
    linear_head,
    list_expected_shapes,
    load_strictly,
    read_head,
    refuse_misfit,
)
from synco_hub.models import BACKBONES, SynCoConfig, SynCoForImageClassification, SynCoModel
from trainers import SynCoForPreTraining


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano", "swin-v2-t", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("model_class", [SynCoModel, SynCoForImageClassification])
def test_the_shapes_are_those_of_the_network_that_is_built_with_its_numbers(backbone, model_class):
    state = model_class(SynCoConfig(backbone, num_labels=7)).state_dict()
    wanted = {key: tuple(value.shape) for key, value in state.items()}
    assert list_expected_shapes(SynCoConfig(backbone, num_labels=7), len(wanted), model_class) == wanted


@pytest.mark.parametrize("backbone", BACKBONES)
def test_no_backbone_of_ours_is_too_large(backbone):
    assert len(list_expected_shapes(SynCoConfig(backbone), 1000)) > 40


def test_huge_claims_are_refused_before_they_are_built():
    for depth, message in (
        (100_000, "depth=100000 needs more weights than the 42 tensors"),
        ([2, 10**12], r"depth=\[2, 1000000000000\] needs more weights"),
        ([1] * 43, "needs more weights"),
        ("many", "depth='many' is neither a whole number nor a list"),
        (1.5, "depth=1.5 is neither"),
        (True, "depth=True is neither"),
    ):
        with pytest.raises(ValueError, match=message):
            check_depth(depth, 42)
    check_depth(42, 42)
    check_depth([40, 2], 42)
    with pytest.raises(ValueError, match="no network of this configuration can be built"):
        list_expected_shapes(SynCoConfig("vit-nano", mlp_ratio=1e15), 42)
    window = SynCoConfig("swin-v2-t", image_size=8192, window_size=256)
    with pytest.raises(ValueError, match=r"window_size=256 needs \d+ indices"):
        list_expected_shapes(window, 1000)


def test_a_huge_network_costs_no_memory_to_compare():
    wanted = list_expected_shapes(SynCoConfig("vit-nano", embed_dim=3 * 10**6), 42)
    assert wanted["backbone.blocks.0.attn.qkv.weight"] == (9 * 10**6, 3 * 10**6)


def test_every_fault_is_named_with_its_first_keys():
    wanted = {"a": (2, 3), "b": (1,), **{f"c{number:02}": () for number in range(30)}}
    found = {"a": (3, 2), "d": tuple(torch.zeros(4).shape)}
    said = describe_misfit(wanted, found)
    assert said.startswith("31 missing: b, c00, c01,")
    assert " …; 1 left over: d; 1 wrong-shaped: a (3, 2) instead of (2, 3)" in said
    assert describe_misfit(wanted, dict(wanted)) == ""


@pytest.mark.parametrize("model_class", [SynCoModel, SynCoForImageClassification, SynCoForPreTraining])
def test_what_every_model_class_saves_fits_and_another_config_does_not(tmp_path, model_class):
    pretraining = {"method": "moby", "queue_size": 64, "projection_hidden_dim": 32, "projection_dim": 16}
    extra = {"pretraining": pretraining} if model_class is SynCoForPreTraining else {}
    model_class(SynCoConfig("vit-nano", num_labels=5, **extra)).save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    assert describe_directory_misfit(tmp_path) == ""
    config = json.loads((tmp_path / "config.json").read_text())
    for change, message in (
        ({"backbone": "deit-s", "embed_dim": 384, "num_heads": 6}, r"instead of \(1152,\)|instead of \(384,\)"),
        ({"depth": 2}, r"left over: .*blocks\.2\."),
        ({"depth": 4}, r"missing: .*blocks\.3\."),
        ({"depth": 10**6}, "depth=1000000 needs more weights"),
        ({"image_size": 64}, "1 wrong-shaped: |2 wrong-shaped: "),
        ({"architectures": ["Other"]}, "names none of SynCoModel"),
        ({"num_heads": 5}, "num_heads=5 does not divide"),
        ({"depth": None, "embed_dim": "wide"}, "describes no network"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        problem = describe_directory_misfit(tmp_path)
        assert problem
        assert re.search(message, problem), problem


def test_a_classifier_has_its_head_and_a_backbone_has_none(tmp_path):
    SynCoForImageClassification(SynCoConfig("vit-nano", num_labels=5)).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    weight = tensors.pop("classifier.weight")
    save_file(tensors, tmp_path / "model.safetensors")
    assert "1 missing: classifier.weight" in describe_directory_misfit(tmp_path)
    save_file(tensors | {"classifier.weight": weight[:4].clone()}, tmp_path / "model.safetensors")
    assert "classifier.weight (4, 96) instead of (5, 96)" in describe_directory_misfit(tmp_path)


def test_a_head_alone_is_no_model_and_other_model_types_are_let_through(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "linear_head.safetensors")
    assert "no model.safetensors" in describe_directory_misfit(tmp_path)
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "model.safetensors")
    assert describe_directory_misfit(tmp_path) == ""


def test_strict_loading_lists_every_fault_and_loads_nothing():
    layer = torch.nn.Linear(3, 2)
    before = layer.weight.clone()
    found = {"weight": torch.zeros(3, 2), "bia": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"missing: bias; 1 left over: bia; 1 wrong-shaped: weight \(3") as error:
        load_strictly(layer, found, "the layer")
    assert "Nothing was written" in str(error.value)
    assert torch.equal(layer.weight, before)
    load_strictly(layer, {"weight": torch.ones(2, 3).half(), "bias": torch.ones(2)}, "the layer")
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_spoilt_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="x holds NaN or infinite"):
        finite("x", torch.tensor([1.0, bad]))
    assert finite("x", torch.tensor([3])) == 3


def test_shapes_are_compared_without_reading_a_number():
    tensors = {"weight": torch.empty(2, 3, device="meta")}
    refuse_misfit({"weight": (2, 3)}, tensors, "the layer")
    with pytest.raises(ValueError, match=r"tensors of the layer do not fit \(1 wrong-shaped: weight \(2, 3\) instead"):
        refuse_misfit({"weight": (3, 2)}, tensors, "the layer")


@pytest.mark.parametrize("layer", ["head.fc", "head", "linear", "classifier", "fc", "module.linear", ""])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_linear_layers_are_found_under_the_names_projects_give_them(tmp_path, layer, container):
    dot = "." if layer else ""
    weight, bias = torch.randn(5, 8), torch.randn(5)
    state = {f"{layer}{dot}weight": weight, f"{layer}{dot}bias": bias}
    torch.save({container: state} if container else state, tmp_path / "head.pth")
    head = read_head(str(tmp_path / "head.pth"))
    assert torch.equal(head.weight, weight)
    assert torch.equal(head.bias, bias)
    assert head.class_names == [f"class {index}" for index in range(5)]


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (torch.zeros(5, 8), torch.zeros(4), "shapes"),
        (torch.zeros(5, 8, 1), torch.zeros(5), "shapes"),
        (torch.full((5, 8), float("nan")), torch.zeros(5), "NaN"),
    ],
)
def test_what_is_no_linear_layer_is_refused(weight, bias, message):
    with pytest.raises(ValueError, match=message):
        linear_head({"weight": weight, "bias": bias})


def test_names_of_classes():
    names = class_names(1000)
    assert len(set(names)) == 1000
    assert "n02123045" in names[281]
    assert ImageNetInfo().index_to_description(281) in names[281]
    head = linear_head({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, {"0": "ibex", "1": "chough"})
    assert head.class_names == ["ibex", "chough"]
    # A list with a gap names nothing.
    head = linear_head({"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}, {"0": "ibex"})
    assert head.class_names == ["class 0", "class 1"]
