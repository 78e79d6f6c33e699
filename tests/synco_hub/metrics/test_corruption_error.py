import pytest
import torch

from synco_hub.metrics import ALEXNET_ERRORS, corruption_error, mean_corruption_error


def test_one_corruption_by_hand():
    targets = torch.tensor([0, 1, 2, 0])
    right = torch.eye(3)[targets]
    wrong = torch.eye(3)[(targets + 1) % 3]
    half = torch.cat([right[:2], wrong[2:]])
    scores = torch.stack([right, half, wrong])
    assert corruption_error(scores, targets, "fog") == pytest.approx(0.5 / 0.819324)


def test_alexnet_itself_has_the_mean_one():
    errors = {name: torch.full((5,), error, dtype=torch.float64) for name, error in ALEXNET_ERRORS.items()}
    assert mean_corruption_error(errors) == pytest.approx(1.0)
    assert len(errors) == 15
    # The published 76.7 of ResNet-50 is the mean of the ratios, not the ratio of the means.
    errors["fog"] = errors["fog"] / 2
    assert mean_corruption_error(errors) == pytest.approx(14.5 / 15)


def test_bad_input():
    with pytest.raises(ValueError, match="corruption 'rain' is unknown"):
        corruption_error(torch.zeros(5, 1, 2), torch.tensor([0]), "rain")
    with pytest.raises(ValueError, match="fog"):
        mean_corruption_error({name: torch.ones(5) for name in ALEXNET_ERRORS if name != "fog"})
    with pytest.raises(ValueError, match="severities"):
        corruption_error(torch.zeros(1, 2), torch.tensor([0]), "fog")
