import torch
from torch.nn import functional as F

from trainers.classification.classification_loss import classification_loss, masked_targets


def test_unreadable_images_do_not_count():
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 4, generator=generator), torch.randint(4, (6,), generator=generator)
    bad = torch.tensor([False, True, False, False, True, False])
    expected = F.cross_entropy(logits[~bad], targets[~bad], label_smoothing=0.1)
    assert torch.allclose(classification_loss(logits, masked_targets(targets, bad)), expected)
    assert classification_loss(logits, masked_targets(targets, bad | True)) == 0


def test_cells_that_do_not_count_leave_binary_cross_entropy():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 4, generator=generator)
    targets = torch.randint(-1, 2, (6, 4), generator=generator).float()
    bad = torch.tensor([True, False, False, False, False, False])
    total, count = 0.0, 0
    for row in range(1, 6):
        for column in range(4):
            if targets[row, column] >= 0:
                probability = logits[row, column].sigmoid()
                total -= (probability if targets[row, column] == 1 else 1 - probability).log()
                count += 1
    assert torch.allclose(classification_loss(logits, masked_targets(targets, bad)), total / count)
