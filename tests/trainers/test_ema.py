import copy

import torch
from torch import nn

from trainers.ema import copy_parameters, update_target


def test_update_target_equals_the_definition_parameter_by_parameter():
    generator = torch.Generator().manual_seed(3)
    shapes = [(4, 3), (7,), (2, 2, 5)]
    target = [torch.randn(shape, generator=generator) for shape in shapes]
    online = [torch.randn(shape, generator=generator) for shape in shapes]
    expected = [0.97 * t + (1 - 0.97) * o for t, o in zip(target, online, strict=True)]
    kept = [o.clone() for o in online]
    update_target(target, online, momentum=0.97)
    for result, want in zip(target, expected, strict=True):
        torch.testing.assert_close(result, want)
    assert all(torch.equal(a, b) for a, b in zip(online, kept, strict=True))


def test_limits_and_closed_form_of_repeated_updates():
    start, online = torch.full((3,), 5.0), torch.full((3,), 1.0)
    unchanged, copied, repeated = start.clone(), start.clone(), start.clone()
    update_target([unchanged], [online], momentum=1.0)
    update_target([copied], [online], momentum=0.0)
    for _ in range(20):
        update_target([repeated], [online], momentum=0.9)
    assert torch.equal(unchanged, start)
    assert torch.equal(copied, online)
    torch.testing.assert_close(repeated, online + (start - online) * 0.9**20)


def test_update_target_leaves_parameters_that_need_gradients_usable():
    parameter = nn.Parameter(torch.zeros(2))
    update_target([parameter], [torch.ones(2)], momentum=0.5)
    assert parameter.is_leaf
    assert parameter.tolist() == [0.5, 0.5]


def test_copy_parameters_copies_buffers_too():
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    source(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    destination = copy.deepcopy(source)
    for value in destination.state_dict().values():
        value.zero_()
    copy_parameters(source, destination)
    for name, value in source.state_dict().items():
        assert torch.equal(value, destination.state_dict()[name])
