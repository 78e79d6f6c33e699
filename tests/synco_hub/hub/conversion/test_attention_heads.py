import pytest
from foreign_checkpoints import microsoft_names, swin, vit

from synco_hub.hub.conversion.attention_heads import recorded_heads, vit_heads
from synco_hub.hub.conversion.configuration import Choices, configuration_of
from synco_hub.hub.conversion.layouts import LAYOUTS
from synco_hub.hub.conversion.timm_names import timm_names


def configured(network, layout="timm", **choices):
    names = microsoft_names(network) if hasattr(network, "layers") else network.state_dict()
    return configuration_of(timm_names(names), layout, LAYOUTS[layout], Choices(**choices))


def test_heads_follow_the_layout_and_unknown_ones_are_asked_for():
    assert configured(vit(384, 1), "synco-v2")[0].num_heads == 12
    assert configured(vit(384, 1), "moby")[0].num_heads == 6
    assert configured(vit(384, 1), "moby", num_heads=3)[0].num_heads == 3
    with pytest.raises(ValueError, match=r"width 96 is not known.*give --num-heads"):
        configured(vit(96, 1, 3), "synco-v2")
    with pytest.raises(ValueError, match="heads are told by the shapes"):
        configured(swin(), num_heads=4)
    with pytest.raises(ValueError, match="num_heads=7 does not divide"):
        configured(vit(384, 1), num_heads=7)


def test_what_is_given_goes_before_all_and_what_is_recorded_is_only_reported():
    layout = LAYOUTS["synco-v2"]
    assert vit_heads(384, "synco-v2", layout, 6, None, 3).num_heads == 6
    decided = vit_heads(384, "synco-v2", layout, None, "deit-s", [3, 6])
    assert (decided.num_heads, decided.recorded) == (12, [3, 6])
    assert vit_heads(384, "timm", LAYOUTS["timm"], None, "deit-s", None).num_heads == 6
    assert vit_heads(192, "dino", LAYOUTS["dino"], None, None, None).num_heads == 3


def test_recorded_heads_are_found_at_any_depth_and_in_a_configuration_that_holds_itself():
    assert recorded_heads({"MODEL": {"SWIN": {"NUM_HEADS": [2, 4]}}, "DATA": {}}) == [2, 4]
    assert recorded_heads({"MODEL": {"TYPE": "synco"}}) is None
    config = {"MODEL": {"TYPE": "synco"}}
    config["MODEL"]["all"] = config
    assert recorded_heads(config) is None
