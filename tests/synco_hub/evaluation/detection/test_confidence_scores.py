import math

import pytest
import torch

from synco_hub.evaluation.detection.confidence_scores import (
    maximum_softmax_log_odds,
    negative_energy,
    neighbour_similarity,
    tied_share,
)


def test_scores_are_those_of_a_loop():
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    for row, odds, energy in zip(
        logits.tolist(), maximum_softmax_log_odds(logits), negative_energy(logits), strict=True
    ):
        total = sum(math.exp(value) for value in row)
        p = math.exp(max(row)) / total
        assert float(odds) == pytest.approx(math.log(p / (1 - p)))
        assert float(energy) == pytest.approx(math.log(total))


@pytest.mark.parametrize("gap", [12.0, 22.0, 40.0, 800.0])
def test_very_sure_images_keep_their_order(gap):
    """Where the probability itself has rounded to one, in any precision."""
    steps = torch.arange(6, dtype=torch.float64)
    logits = torch.zeros(6, 200, dtype=torch.float64)
    logits[:, 3] = gap + steps / 16
    scores = maximum_softmax_log_odds(logits)
    assert (scores.diff() > 0).all()
    assert tied_share(scores) == 0
    if gap >= 40:
        assert tied_share(logits.softmax(1).max(1).values) > 0.5


def test_neighbours_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(1)
    features, bank = torch.randn(9, 5, generator=generator), torch.randn(30, 5, generator=generator)
    for k in (1, 4, 30):
        scores = neighbour_similarity(features, bank, k)
        for image, score in zip(features, scores, strict=True):
            distances = sorted(float((image / image.norm() - row / row.norm()).norm()) for row in bank)
            assert math.sqrt(max(2 - 2 * float(score), 0)) == pytest.approx(distances[k - 1], abs=1e-5)
    with pytest.raises(ValueError, match="neighbour 31 of 30"):
        neighbour_similarity(features, bank, 31)


def test_broken_numbers_and_a_single_class_are_refused():
    logits = torch.zeros(4, 3)
    logits[2, 1] = torch.nan
    for score in (maximum_softmax_log_odds, negative_energy):
        with pytest.raises(ValueError, match="logits of 1 of 4 images are NaN or infinite, first at row 2"):
            score(logits)
    with pytest.raises(ValueError, match="two classes"):
        maximum_softmax_log_odds(torch.zeros(4, 1))
    with pytest.raises(ValueError, match="features of known images of 1 of 4"):
        neighbour_similarity(torch.ones(2, 3), logits, 1)


def test_ties_are_counted_by_image():
    assert tied_share(torch.tensor([1.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 5.0])) == pytest.approx(5 / 8)
    assert tied_share(torch.zeros(0)) == 0
