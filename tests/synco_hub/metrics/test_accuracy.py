"""Top-k accuracy against a stable sort written out as a loop, and against scikit-learn and torchmetrics."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

from synco_hub.metrics import (
    check_label_range,
    hits_any_target,
    mean_per_class_accuracy,
    target_ranks,
    top_k_accuracy,
)
from synco_hub.metrics.accuracy import mean_per_class_error, standard_error


def ranks_by_sorting(scores: np.ndarray, targets: np.ndarray) -> list[int]:
    ranks = []
    for row, target in zip(scores, targets, strict=True):
        order = sorted(range(len(row)), key=lambda index: (-row[index], index))
        ranks.append(order.index(target))
    return ranks


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_ranks_equal_a_stable_sort_also_with_many_ties(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    scores = torch.randint(levels, (200, 7), generator=generator) / levels - 0.5
    targets = torch.randint(7, (200,), generator=generator)
    assert target_ranks(scores, targets).tolist() == ranks_by_sorting(scores.numpy(), targets.numpy())


@pytest.mark.parametrize("k", [1, 2, 5])
def test_equals_scikit_learn_without_ties(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    scores = torch.randn(300, 9, generator=generator)
    targets = torch.randint(9, (300,), generator=generator)
    expected = top_k_accuracy_score(targets.numpy(), scores.numpy(), k=k, labels=list(range(9)))
    assert top_k_accuracy(scores, targets, k) == pytest.approx(expected, abs=1e-12)


def test_all_classes_are_always_right_and_ties_go_to_the_lower_class() -> None:
    scores = torch.zeros(4, 3)
    targets = torch.tensor([0, 1, 2, 0])
    assert top_k_accuracy(scores, targets, 3) == 1.0
    assert top_k_accuracy(scores, targets, 1) == 0.5
    assert top_k_accuracy(scores, targets, 2) == 0.75


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64])
def test_any_number_type(dtype: torch.dtype) -> None:
    scores = torch.tensor([[3, 1, 2], [0, 5, 4]]).to(dtype)
    assert target_ranks(scores, torch.tensor([2, 0], dtype=torch.int32)).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("scores", "targets", "k", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 3]), 1, r"target 1 has label 3, one of 1 among 2 .* 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), 1, "target 0 has label -1"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), 4, "k=4"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), 0, "k=0"),
        (torch.zeros(2, 3), torch.tensor([0]), 1, "do not fit"),
        (torch.zeros(0, 3), torch.tensor([], dtype=torch.int64), 1, "empty"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), 1, "integers"),
        (torch.full((2, 3), torch.nan), torch.tensor([0, 1]), 1, "6 of the scores are NaN"),
    ],
)
def test_bad_input_is_refused(scores: torch.Tensor, targets: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_k_accuracy(scores, targets, k)


def test_label_range_names_whose_label_it_is() -> None:
    check_label_range(torch.tensor([0, 4]), 5)
    with pytest.raises(ValueError, match="training image 1 has label 5, one of 2 among 3"):
        check_label_range(torch.tensor([0, 5, 9]), 5, "training image")


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


def test_standard_errors_are_the_scatter_of_repeated_draws() -> None:
    # 43.4 % of 76 pictures: 5.7 points.
    assert standard_error(43.4, 76) == pytest.approx(5.685, abs=1e-3)
    assert standard_error(100.0, 50) == standard_error(0.0, 50) == 0.0
    generator = np.random.default_rng(0)
    drawn = 100 * generator.binomial(200, 0.3, 20_000) / 200
    assert standard_error(30.0, 200) == pytest.approx(drawn.std(), rel=0.02)


def test_the_error_of_a_mean_over_classes_is_that_of_its_draws() -> None:
    # Of 10 and of 40 images, 80 % and 30 % are right.
    targets = torch.tensor([0] * 10 + [1] * 40)
    right = torch.tensor([True] * 8 + [False] * 2 + [True] * 12 + [False] * 28)
    generator = np.random.default_rng(1)
    shares = [100 * generator.binomial(n, p, 20_000) / n for n, p in ((10, 0.8), (40, 0.3))]
    assert mean_per_class_error(right, targets, 3) == pytest.approx(np.mean(shares, axis=0).std(), rel=0.02)


def test_one_of_several_targets_is_hit_as_a_loop_counts():
    generator = torch.Generator().manual_seed(3)
    scores = torch.randint(0, 4, (200, 6), generator=generator).float()  # many ties
    targets = torch.randint(-1, 6, (200, 3), generator=generator)
    expected = [
        int(np.argmax(row)) in [label for label in labels if label >= 0]
        for row, labels in zip(scores.numpy(), targets.tolist(), strict=True)
    ]
    assert hits_any_target(scores, targets).tolist() == expected
    with pytest.raises(ValueError, match="label 6"):
        hits_any_target(scores, torch.full((200, 1), 6))
    with pytest.raises(ValueError, match="NaN"):
        hits_any_target(torch.full((1, 3), torch.nan), torch.zeros(1, 1, dtype=torch.long))
