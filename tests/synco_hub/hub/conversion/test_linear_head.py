import pytest
import torch
from timm.data import ImageNetInfo

from synco_hub.hub.conversion.linear_head import class_names, head_of_file, linear_head


@pytest.mark.parametrize("layer", ["head.fc", "head", "linear", "classifier", "fc", "module.linear", ""])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_linear_layers_are_found_under_the_names_projects_give_them(tmp_path, layer, container):
    dot = "." if layer else ""
    weight, bias = torch.randn(5, 8), torch.randn(5)
    state = {f"{layer}{dot}weight": weight, f"{layer}{dot}bias": bias}
    torch.save({container: state} if container else state, tmp_path / "head.pth")
    head = head_of_file(str(tmp_path / "head.pth"))
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
