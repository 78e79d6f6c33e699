import math

import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from synco_hub.metrics import class_iou, mean_iou, segmentation_confusion


def _slow_iou(pairs, num_classes):
    """Sets of pixels, a class at a time."""
    values = []
    for number in range(num_classes):
        common = either = 0
        for predicted, target in pairs:
            for one, other in zip(predicted.flatten().tolist(), target.flatten().tolist(), strict=True):
                if other != 255:
                    common += one == number and other == number
                    either += one == number or other == number
        values.append(common / either if either else math.nan)
    return values


def _pairs(seed, num_classes, absent=()):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.tensor([number for number in range(num_classes) if number not in absent])
    pairs = []
    for size in ((7, 9), (5, 4), (11, 3)):
        predicted = kept[torch.randint(len(kept), size, generator=generator)]
        target = kept[torch.randint(len(kept), size, generator=generator)]
        target[torch.rand(size, generator=generator) < 0.2] = 255
        pairs.append((predicted, target))
    return pairs


@pytest.mark.parametrize("absent", [(), (2,), (0, 4)])
def test_equals_a_slow_loop_and_torchmetrics(absent):
    pairs = _pairs(1, 6, absent)
    total = sum(segmentation_confusion(predicted, target, 6) for predicted, target in pairs)
    slow = _slow_iou(pairs, 6)
    assert class_iou(total).tolist() == pytest.approx(slow, nan_ok=True)
    assert mean_iou(total) == pytest.approx(sum(v for v in slow if v == v) / (6 - len(absent)))
    theirs = MulticlassJaccardIndex(6, average="macro", ignore_index=255)
    matrix = MulticlassConfusionMatrix(6, ignore_index=255)
    for predicted, target in pairs:
        theirs.update(predicted.flatten(), target.flatten())
        matrix.update(predicted.flatten(), target.flatten())
    assert mean_iou(total) == pytest.approx(float(theirs.compute()))
    assert torch.equal(total, matrix.compute())


def test_a_class_that_is_predicted_only_counts_as_zero_and_one_in_neither_does_not_count():
    predicted, target = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[0, 0], [255, 0]])
    confusion = segmentation_confusion(predicted, target, 3)
    assert class_iou(confusion).tolist() == pytest.approx([2 / 3, 0.0, math.nan], nan_ok=True)
    assert mean_iou(confusion) == pytest.approx(1 / 3)


def test_nothing_counted_is_nan_and_what_does_not_fit_is_refused():
    empty = segmentation_confusion(torch.zeros(2, 2, dtype=torch.long), torch.full((2, 2), 255), 3)
    assert math.isnan(mean_iou(empty))
    with pytest.raises(ValueError, match="differ in shape"):
        segmentation_confusion(torch.zeros(2, 2), torch.zeros(2, 3), 3)
    with pytest.raises(ValueError, match="targets from 0 to 7: classes are 0 to 2"):
        segmentation_confusion(torch.zeros(2), torch.tensor([0, 7]), 3)
