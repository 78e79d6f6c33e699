import pytest
import torch

from synco_hub import metrics
from synco_hub.evaluation.classification_scores import ClassificationScores


def test_batches_give_the_numbers_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    scores, targets = torch.randn(50, 7, generator=generator), torch.randint(7, (50,), generator=generator)
    keeper = ClassificationScores(7, multi_label=False)
    for start in range(0, 50, 16):
        keeper.add(scores[start : start + 16], targets[start : start + 16])
    keeper.add(scores[:0], targets[:0])
    assert keeper.metrics() == pytest.approx(
        {
            "top1": 100 * metrics.top_k_accuracy(scores, targets),
            "top5": 100 * metrics.top_k_accuracy(scores, targets, 5),
            "mean_per_class": 100 * metrics.mean_per_class_accuracy(scores, targets),
        }
    )


def test_several_classes_an_image():
    generator = torch.Generator().manual_seed(1)
    scores, targets = torch.randn(50, 3, generator=generator), torch.randint(-1, 2, (50, 3), generator=generator)
    keeper = ClassificationScores(3, multi_label=True)
    keeper.add(scores[:20], targets[:20])
    keeper.add(scores[20:], targets[20:])
    assert keeper.metrics() == pytest.approx(
        {
            "map_11_point": 100 * metrics.voc_average_precision_11_point(scores, targets),
            "map_integral": 100 * metrics.average_precision(scores, targets),
        }
    )


def test_bad_input():
    with pytest.raises(ValueError, match="no image was classified"):
        ClassificationScores(3, False).metrics()
    with pytest.raises(ValueError, match="label 3"):
        ClassificationScores(3, False).add(torch.zeros(1, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match="NaN"):
        ClassificationScores(3, False).add(torch.full((1, 3), torch.nan), torch.tensor([0]))
