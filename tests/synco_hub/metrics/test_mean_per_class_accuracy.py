import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from synco_hub.metrics import mean_per_class_accuracy


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_balanced_accuracy(seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(7, (60,), generator=generator)
    scores = torch.randn(60, 9, generator=generator) + 2 * torch.nn.functional.one_hot(targets, 9)
    expected = balanced_accuracy_score(targets.numpy(), scores.argmax(1).numpy())
    assert mean_per_class_accuracy(scores, targets) == pytest.approx(expected, abs=1e-12)


def test_a_rare_class_counts_as_much_as_a_frequent_one():
    targets = torch.tensor([0] * 99 + [1])
    scores = torch.tensor([[1.0, 0.0, 0.0]]).expand(100, 3)
    assert mean_per_class_accuracy(scores, targets) == 0.5


def test_a_label_out_of_range_is_named():
    with pytest.raises(ValueError, match="target 1 has label 3"):
        mean_per_class_accuracy(torch.zeros(2, 3), torch.tensor([0, 3]))
