"""The network comes back as it was: every training flag, also after an error."""

import pytest
import torch
from torch import nn

from synco_hub.frozen import frozen


def test_training_flags_come_back_module_by_module() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    network[1].eval()
    before = [module.training for module in network.modules()]
    with frozen(network) as same:
        assert same is network
        assert not any(module.training for module in network.modules())
    assert [module.training for module in network.modules()] == before == [True, True, False, True]


def test_an_error_inside_changes_nothing() -> None:
    network = nn.Linear(2, 2).train()
    with pytest.raises(RuntimeError, match="inside"), frozen(network, "cpu"):
        raise RuntimeError("inside")
    assert network.training


def test_the_device_is_used_and_left() -> None:
    network = nn.Linear(2, 2)
    weight = network.weight
    values = weight.detach().clone()
    with frozen(network, torch.device("cpu")) as moved:
        assert next(moved.parameters()).device.type == "cpu"
    assert network.weight is weight
    assert torch.equal(network.weight, values)


@pytest.mark.gpu
def test_the_network_goes_to_the_gpu_and_back() -> None:
    network = nn.Linear(2, 2)
    with frozen(network, "cuda") as moved:
        assert next(moved.parameters()).device.type == "cuda"
    assert network.weight.device.type == "cpu"
