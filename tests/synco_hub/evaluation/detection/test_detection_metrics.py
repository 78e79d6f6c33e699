import pytest
import torch

from synco_hub.evaluation.detection.detection_metrics import detection_metrics, explanation


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
