import hashlib
import json

import pytest
import torch
from safetensors.torch import save_file

from synco_hub.hub.conversion.source import open_source, read_tensors


def test_the_content_decides_and_not_the_name(tmp_path):
    tensors = {"a.weight": torch.randn(2, 3)}
    torch.save(tensors, tmp_path / "misleading.safetensors")
    save_file(tensors, tmp_path / "misleading.pth")
    for name, kind in (("misleading.safetensors", "torch"), ("misleading.pth", "safetensors")):
        source = open_source(str(tmp_path / name))
        assert source.kind == kind
        assert source.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        assert tuple(source.content["a.weight"].shape) == (2, 3)
        assert torch.equal(source.content["a.weight"], tensors["a.weight"])


def test_damaged_safetensors_are_told(tmp_path):
    save_file({"a": torch.zeros(100)}, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(data[:-10])
    with pytest.raises(ValueError, match=r"no whole \.safetensors file"):
        open_source(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json and model.safetensors"),
        ({"model_type": "synco"}, "of this package already"),
        ({"model_type": "resnet"}, "of the type 'resnet'"),
        ({}, "of the type 'None'"),
    ],
)
def test_directories_that_are_not_converted(tmp_path, config, message):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path))


@pytest.mark.parametrize("config", ["{", "[]", "3", "[" * 100_000])
def test_a_configuration_that_is_none_is_told_with_its_file(tmp_path, config):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"synco_config": config})
    with pytest.raises(ValueError, match=r"x\.safetensors: its configuration is no"):
        open_source(str(tmp_path / "x.safetensors"))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config\.json: its configuration is no"):
        open_source(str(tmp_path))


def test_every_tensor_is_counted_once_a_place():
    shared = torch.zeros(1)
    nested = {"a": shared, "b": [shared, ({"c": torch.ones(2)},)], "d": "text"}
    nested["self"] = nested
    assert sum(1 for _ in read_tensors(nested)) == 3
