import pytest
import torch

from synco_hub.hub.conversion.strict_loading import finite, load_strictly, refuse_misfit


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
