import pytest
import torch

from trainers.classification.feature_dataset import FeatureDataset


def test_rows_by_position_and_by_epoch():
    values, targets = torch.randn(4, 3), torch.tensor([3, 1, 2, 0])
    dataset = FeatureDataset(values, targets)
    assert len(dataset) == 4
    for key in (2, (7, 2)):
        item = dataset[key]
        assert torch.equal(item["features"], values[2])
        assert (int(item["target"]), item["index"], item["bad_index"]) == (2, 2, -1)
    with pytest.raises(ValueError, match="4 features and 3 targets"):
        FeatureDataset(values, targets[:3])
