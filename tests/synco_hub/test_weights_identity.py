import hashlib
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel
from synco_hub.weights_identity import hash_saved_weights, hash_weights


def small(seed: int = 0) -> SynCoForImageClassification:
    torch.manual_seed(seed)
    return SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1, num_labels=2))


def test_the_hash_is_that_of_names_shapes_and_bytes_in_the_order_of_names():
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    text = b""
    for name in sorted(network.state_dict()):
        value = network.state_dict()[name]
        text += f"{name}/{value.dtype}/{tuple(value.shape)}".encode() + value.numpy().tobytes()
    assert hash_weights(network) == hashlib.blake2b(text, digest_size=8).hexdigest()


def test_files_have_the_hash_of_what_they_were_saved_from(tmp_path):
    classifier, backbone = small(), SynCoModel(SynCoConfig(backbone="swin-nano"))
    classifier.save_pretrained(tmp_path / "classifier")
    backbone.save_pretrained(tmp_path / "backbone", max_shard_size="200KB")
    assert len(list((tmp_path / "backbone").glob("model-*.safetensors"))) > 1
    assert hash_saved_weights(tmp_path / "classifier") == (hash_weights(classifier), hash_weights(classifier.synco))
    assert hash_saved_weights(tmp_path / "backbone") == (hash_weights(backbone),) * 2
    assert hash_weights(torch.compile(backbone, backend="eager")) == hash_weights(backbone)


def test_the_type_of_storage_plays_no_part_and_every_value_does(tmp_path):
    network = small().bfloat16()
    network.save_pretrained(tmp_path / "half")
    assert hash_saved_weights(tmp_path / "half")[0] == hash_weights(network) == hash_weights(network.float())
    shutil.copytree(tmp_path / "half", tmp_path / "other")
    file = tmp_path / "other" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"][1] += 1
    save_file(tensors, file, {"format": "pt"})
    (whole, backbone), (other, same) = (hash_saved_weights(tmp_path / name) for name in ("half", "other"))
    assert whole != other
    assert backbone == same


def test_a_folder_without_weights_has_none(tmp_path):
    with pytest.raises(ValueError, match="holds no weights"):
        hash_saved_weights(tmp_path)
