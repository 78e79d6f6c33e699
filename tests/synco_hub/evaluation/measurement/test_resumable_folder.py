import pytest
import torch

from synco_hub.evaluation.measurement.resumable_folder import (
    claim_folder,
    differences,
    finished_part,
    finished_tensors,
    keep_part,
    keep_tensors,
    read_json,
    write_json,
)


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


def test_what_differs_is_named_and_long_values_are_cut():
    said = differences({"a": 1, "b": [1, 2], "gone": 0}, {"a": 1, "b": (1, 3), "c": "x" * 500})
    assert said == f"b: [1, 2] there, [1, 3] now; gone: 0 there, None now; c: None there, '{'x' * 59}… now"
    assert differences({"b": [1]}, {"b": (1,)}) == ""


def test_a_part_counts_while_its_images_are_the_same(tmp_path):
    assert finished_part(tmp_path / "p.json", "one") is None
    keep_part(tmp_path / "p.json", "one", {"correct": [True, False]})
    assert finished_part(tmp_path / "p.json", "one") == {"correct": [True, False]}
    assert finished_part(tmp_path / "p.json", "other") is None
    file = tmp_path / "t.safetensors"
    assert finished_tensors(file, "one") is None
    tensors = {"logits": torch.rand(3, 2), "indices": torch.empty(0, dtype=torch.int64)}
    keep_tensors(file, "one", tensors)
    found = finished_tensors(file, "one")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert finished_tensors(file, "other") is None
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"t\.safetensors.*delete it"):
        finished_tensors(file, "one")


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_damaged_parts_are_named(tmp_path, text):
    (tmp_path / "part.json").write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"part\.json.*delete it"):
        read_json(tmp_path / "part.json")
    write_json(tmp_path / "part.json", {"a": 1})
    assert read_json(tmp_path / "part.json") == {"a": 1}
