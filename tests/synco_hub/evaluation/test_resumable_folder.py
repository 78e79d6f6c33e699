import pytest
import torch
from torch import nn

from synco_hub.evaluation.resumable_folder import claim_folder, read_json, weights_fingerprint, write_json


def test_a_folder_belongs_to_one_measurement(tmp_path):
    claim_folder(tmp_path / "a", {"scales": (1.0, 0.5), "weights": "x"})
    claim_folder(tmp_path / "a", {"weights": "x", "scales": [1.0, 0.5]})
    with pytest.raises(ValueError, match=r"weights: 'x' there, 'y' now"):
        claim_folder(tmp_path / "a", {"scales": (1.0, 0.5), "weights": "y"})
    (tmp_path / "b").mkdir()
    claim_folder(tmp_path / "b", {"weights": "x"})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "holiday.jpg").touch()
    with pytest.raises(ValueError, match="not empty"):
        claim_folder(tmp_path / "c", {"weights": "x"})


def test_the_fingerprint_sees_every_weight_and_buffer_and_nothing_else():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).bfloat16()
    before = weights_fingerprint(network)
    assert weights_fingerprint(network.eval()) == before
    network[1].running_mean[2] += 1
    changed = weights_fingerprint(network)
    with torch.no_grad():
        network[0].weight[0, 0] += 1
    assert len({before, changed, weights_fingerprint(network)}) == 3
    assert weights_fingerprint(network.float()) != changed


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_damaged_parts_are_named(tmp_path, text):
    (tmp_path / "part.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"part\.json.*delete it"):
        read_json(tmp_path / "part.json")
    write_json(tmp_path / "part.json", {"a": 1})
    assert read_json(tmp_path / "part.json") == {"a": 1}
