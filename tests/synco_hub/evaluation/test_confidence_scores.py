import math

import pytest
import torch

from synco_hub.evaluation.confidence_scores import (
    detection_metrics,
    explanation,
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


def loop_fpr95(known, unknown):
    """Threshold by threshold: the one whose recall of unknown images is nearest to 0.95, the lower of two."""
    best = (2.0, 0.0)
    for threshold in sorted({*known, *unknown}):
        recall = sum(score <= threshold for score in unknown) / len(unknown)
        rate = sum(score <= threshold for score in known) / len(known)
        if abs(recall - 0.95) < best[0] - 1e-12 or (abs(abs(recall - 0.95) - best[0]) < 1e-12 and recall < 1):
            best = (abs(recall - 0.95), rate)
    return 100 * best[1]


@pytest.mark.parametrize("ties", [False, True])
def test_numbers_are_those_of_loops_and_of_scikit_learn(ties):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(int(ties))
    known = torch.randn(151, generator=generator) + 1
    unknown = torch.randn(101, generator=generator)
    if ties:
        known, unknown = (known * 2).round(), (unknown * 2).round()
    ours = detection_metrics("msp", known, unknown)
    targets = [0] * 151 + [1] * 101
    scores = [-value for value in [*known.tolist(), *unknown.tolist()]]
    assert ours["auroc_msp"] == pytest.approx(100 * metrics.roc_auc_score(targets, scores))
    assert ours["aupr_msp"] == pytest.approx(100 * metrics.average_precision_score(targets, scores))
    flipped = [1 - target for target in targets], [-score for score in scores]
    assert ours["aupr_known_positive_msp"] == pytest.approx(100 * metrics.average_precision_score(*flipped))
    assert ours["fpr95_msp"] == pytest.approx(loop_fpr95(known.tolist(), unknown.tolist()))
    assert ours["fpr95_known_positive_msp"] == pytest.approx(loop_fpr95((-unknown).tolist(), (-known).tolist()))
    assert (ours["tied_share_msp"] > 90) is ties


def test_all_tied_is_chance_and_said():
    ours = detection_metrics("msp", torch.zeros(30), torch.zeros(10))
    assert (ours["fpr95_msp"], ours["auroc_msp"], ours["tied_share_msp"]) == (100.0, 50.0, 100.0)
    assert ours["aupr_msp"] == pytest.approx(25.0)
    assert "FPR95 of 100.0 % is worse than chance (95 %): every image has the same score" in explanation(
        "msp", torch.zeros(30), torch.zeros(10)
    )


def test_a_hundred_is_explained_by_ties_by_a_turned_sign_or_by_the_images():
    known = torch.linspace(0.2, 0.8, 100)
    saturated = torch.cat([torch.linspace(0, 0.1, 90), torch.ones(10)])
    assert detection_metrics("msp", known, saturated)["fpr95_msp"] == 100.0
    assert "10.0 % of the unknown images are tied at the highest confidence" in explanation("msp", known, saturated)
    assert "a sign is turned" in explanation("msp", known, known + 1)
    few_sure = torch.cat([torch.linspace(0, 0.1, 90), torch.linspace(2, 3, 10)])
    assert "most confident unknown images" in explanation("msp", known, few_sure)
    assert explanation("msp", known + 1, known) is None


def test_one_kind_alone_and_nan_are_refused():
    for sides, text in (
        ((torch.zeros(0), torch.ones(3)), "no in-distribution image"),
        ((torch.ones(3), torch.zeros(0)), "no out-of-distribution image"),
        ((torch.tensor([1.0, torch.nan]), torch.ones(3)), "NaN"),
    ):
        with pytest.raises(ValueError, match=text):
            detection_metrics("msp", *sides)
