import pytest
import torch

from synco_hub.evaluation.measurement.measured_split import MeasuredSplit
from synco_hub.evaluation.measurement.saved_split import check_same_model, load_split, save_split
from synco_hub.features import Features
from synco_hub.results import DataSource, ModelSource


def test_a_round_trip_keeps_everything(tmp_path):
    features = Features(torch.randn(3, 4), torch.tensor([0, 1, 0]), torch.tensor([0, 2, 3]), torch.tensor([1]), {})
    split = MeasuredSplit(features, DataSource("d", "test", 3), ("a", "ö"), ("bad.png",), {"image_size": 32})
    model = ModelSource("m", "the feature", None, 7)
    path = save_split(split, model, tmp_path / "f" / "test.safetensors")
    loaded, source = load_split(path)
    assert source == model
    assert (loaded.source, loaded.class_names, loaded.skipped_files) == (split.source, ("a", "ö"), ("bad.png",))
    assert loaded.preprocessing == {"image_size": 32}
    assert torch.equal(loaded.features.values, features.values)
    check_same_model(model, source)
    with pytest.raises(ValueError, match="neighbours need one model"):
        check_same_model(model, ModelSource("n"))
    with pytest.raises(ValueError, match="does not say which split"):
        load_split(features.save(tmp_path / "bare.safetensors"))
    with pytest.raises(FileNotFoundError, match="--save-features"):
        load_split(tmp_path / "nowhere")
