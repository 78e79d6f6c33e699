"""What an optimizer holds is read off it, and only its own kind of state is gone on from."""

import json

import pytest
import torch

from trainers.runs.optimizer_state import describe_optimizer, refuse_other_optimizer


def make(kind, sizes=(2, 1), **settings):
    groups = [{"params": [torch.nn.Parameter(torch.ones(3)) for _ in range(size)]} for size in sizes]
    groups[-1]["weight_decay"] = 0.0
    return kind(groups, **settings)


def save(optimizer, directory, name=None):
    directory.mkdir()
    torch.save(optimizer.state_dict(), directory / "optimizer.pt")
    (directory / "manifest.json").write_text(json.dumps({"optimizer": {"class": name}} if name else {}))
    return directory


def test_settings_are_those_of_the_groups_and_rates_the_peak():
    optimizer = make(torch.optim.AdamW, lr=0.3, weight_decay=0.2, betas=(0.8, 0.9))
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.15
    described = describe_optimizer(optimizer)
    assert described == {"class": "AdamW", "lr": 0.3, "weight_decay": [0.2, 0.0], "betas": (0.8, 0.9), "eps": 1e-8}


def test_its_own_state_is_gone_on_from_and_another_is_not(tmp_path):
    state = save(make(torch.optim.AdamW, lr=0.1), tmp_path / "adamw")
    refuse_other_optimizer(state, make(torch.optim.AdamW, lr=0.5))
    with pytest.raises(ValueError, match="the state of another optimizer, which SGD cannot go on from"):
        refuse_other_optimizer(state, make(torch.optim.SGD, lr=0.1, momentum=0.9))
    named = save(make(torch.optim.Adam, lr=0.1), tmp_path / "adam", "Adam")
    with pytest.raises(ValueError, match="the state of Adam, which AdamW cannot go on from"):
        refuse_other_optimizer(named, make(torch.optim.AdamW, lr=0.1))


def test_other_groups_and_no_state_are_refused(tmp_path):
    state = save(make(torch.optim.AdamW, lr=0.1), tmp_path / "adamw")
    with pytest.raises(ValueError, match="decays other weights"):
        refuse_other_optimizer(state, make(torch.optim.AdamW, sizes=(1, 2), lr=0.1))
    (state / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"has no optimizer\.pt"):
        refuse_other_optimizer(state, make(torch.optim.AdamW, lr=0.1))
