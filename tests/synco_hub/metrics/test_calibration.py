import math

import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from synco_hub.metrics.calibration import measure_reliability, negative_log_likelihood


@pytest.mark.parametrize("sharpness", [0.5, 2.0, 8.0])
def test_the_calibration_error_is_that_of_torchmetrics(sharpness):
    generator = torch.Generator().manual_seed(0)
    chances = (sharpness * torch.randn(500, 7, generator=generator)).softmax(1)
    targets = torch.randint(7, (500,), generator=generator)
    ours = measure_reliability(chances, targets).expected_calibration_error
    assert ours == pytest.approx(multiclass_calibration_error(chances, targets, 7, n_bins=15).item(), abs=1e-6)


def test_one_who_is_as_sure_as_right_has_no_error_and_certainty_lies_in_the_last_bin():
    chances = torch.tensor([[0.75, 0.25]] * 4 + [[1.0, 0.0]] * 2)
    targets = torch.tensor([0, 0, 0, 1, 0, 0])
    found = measure_reliability(chances, targets)
    assert found.expected_calibration_error == pytest.approx(0, abs=1e-12)
    assert found.counts[-1] == 2
    assert found.counts.sum() == 6
    assert measure_reliability(chances, 1 - targets).expected_calibration_error == pytest.approx(4 / 6 * 0.5 + 2 / 6)


def test_the_likelihood_of_guessing_is_the_logarithm_of_the_classes():
    even = torch.full((5, 8), 1 / 8).log()
    assert negative_log_likelihood(even, torch.arange(5)) == pytest.approx(math.log(8))
    with pytest.raises(ValueError, match="classes"):
        negative_log_likelihood(even, torch.tensor([0, 1, 2, 3, 8]))
