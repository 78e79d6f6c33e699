import pytest
import torch
from foreign_checkpoints import AUTHORS_CONFIG, moby_like, swin

from synco_hub.hub.conversion.accounting import account
from synco_hub.hub.conversion.parts import split_parts
from synco_hub.hub.conversion.recognition import recognise
from synco_hub.hub.conversion.source import CheckpointSource
from synco_hub.hub.conversion.timm_names import timm_names


@pytest.mark.parametrize("whole", [False, True])
def test_carried_over_and_dropped_add_up(whole):
    content = moby_like(swin(), swin(), AUTHORS_CONFIG)
    content["optimizer"] = {"state": [torch.zeros(1)] * 3}
    source = CheckpointSource("x.pth", "torch", None, content)
    parts = split_parts(source, recognise(source))
    kept = ("online", "target") if whole else ("online",)
    backbones = {name: timm_names(parts.tensors[name]) for name in kept}
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
    backbone = timm_names(parts.tensors["online"])
    del parts.tensors["queue"]
    with pytest.raises(AssertionError, match="are accounted for"):
        account(source, parts, {"online": backbone}, False, True)
