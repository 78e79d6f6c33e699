"""Against counting pixels and torchvision."""

import pytest
import torch
from torchvision.ops import box_iou

from synco_hub.metrics import box_overlap, correct_localization


def draw(count, seed):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 15, (count, 2), generator=generator)
    return torch.cat([corner, corner + torch.randint(1, 12, (count, 2), generator=generator)], dim=1)


@pytest.mark.parametrize("seed", range(3))
def test_overlap_counts_pixels(seed):
    boxes, others = draw(6, seed), draw(5, seed + 10)
    found = box_overlap(boxes, others)
    assert torch.allclose(found, box_iou(boxes.double(), others.double()))

    def pixels(box):
        left, top, right, bottom = box.tolist()
        return {(x, y) for x in range(left, right) for y in range(top, bottom)}

    for row, box in enumerate(boxes):
        for column, other in enumerate(others):
            ours, theirs = pixels(box), pixels(other)
            assert float(found[row, column]) == pytest.approx(len(ours & theirs) / len(ours | theirs))


def test_any_annotated_box_will_do_and_exactly_half_counts():
    boxes = torch.tensor([[0, 0, 2, 1], [0, 0, 2, 1], [0, 0, 2, 1]])
    far = torch.tensor([[50, 50, 60, 60]])
    half = torch.tensor([[0, 0, 1, 1]])
    targets = [torch.cat([far, half]), far, torch.empty(0, 4)]
    assert correct_localization(boxes, targets) == pytest.approx(1 / 3)
    assert correct_localization(boxes, targets, threshold=0.51) == 0.0


def test_boxes_without_area_and_bad_input():
    assert float(box_overlap(torch.zeros(1, 4), torch.zeros(1, 4))) == 0.0
    with pytest.raises(ValueError, match="do not fit"):
        correct_localization(torch.zeros(2, 4), [torch.zeros(1, 4)])
    with pytest.raises(ValueError, match="at least one image"):
        correct_localization(torch.zeros(0, 4), [])
    with pytest.raises(ValueError, match="threshold=0"):
        correct_localization(torch.zeros(1, 4), [torch.zeros(1, 4)], 0)
    with pytest.raises(ValueError, match="left, top, right, bottom"):
        correct_localization(torch.zeros(1, 4), [torch.zeros(1, 5)])
