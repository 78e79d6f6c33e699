"""The vote against a loop in numpy, closed forms and limit cases of the temperature."""

import numpy as np
import pytest
import torch
from torch import Tensor

from synco_hub.metrics import weighted_knn_vote, weighted_knn_votes


def vote_in_a_loop(
    similarities: np.ndarray, labels: np.ndarray, classes: int, k: int, temperature: float
) -> np.ndarray:
    votes = np.zeros((len(similarities), classes))
    for query in range(len(similarities)):
        for neighbour in range(k):
            votes[query, labels[query, neighbour]] += np.exp(similarities[query, neighbour] / temperature)
    return votes


def neighbours(seed: int, queries: int = 40, count: int = 30, classes: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    similarities = (torch.rand(queries, count, generator=generator) * 2 - 1).sort(dim=1, descending=True).values
    return similarities, torch.randint(classes, (queries, count), generator=generator)


@pytest.mark.parametrize("k", [1, 7, 30])
def test_votes_are_in_proportion_to_the_formula(k: int) -> None:
    similarities, labels = neighbours(k)
    votes = weighted_knn_vote(similarities, labels, 6, k=k).numpy()
    expected = vote_in_a_loop(similarities.numpy().astype(np.float64), labels.numpy(), 6, k, 0.07)
    nearest = np.exp(similarities[:, :1].double().numpy() / 0.07)
    np.testing.assert_allclose(votes * nearest, expected, rtol=1e-12)


def test_several_k_in_one_pass_equal_each_alone() -> None:
    similarities, labels = neighbours(1)
    together = {k: votes.clone() for k, votes in weighted_knn_votes(similarities, labels, 6, [20, 5, 5, 30])}
    assert list(together) == [5, 20, 30]
    for k, votes in together.items():
        assert torch.equal(votes, weighted_knn_vote(similarities, labels, 6, k=k))


def test_a_high_temperature_counts_and_a_low_one_asks_the_nearest() -> None:
    similarities, labels = neighbours(2)
    counts = weighted_knn_vote(similarities, labels, 6, temperature=1e9)
    expected = torch.stack([(labels == c).sum(1) for c in range(6)], dim=1).double()
    torch.testing.assert_close(counts, expected, rtol=1e-6, atol=1e-6)
    coldest = weighted_knn_vote(similarities, labels, 6, temperature=1e-5)
    assert bool(torch.isfinite(coldest).all())
    assert torch.equal(coldest.argmax(dim=1), labels[:, 0])


def test_equal_neighbours_give_exactly_equal_votes() -> None:
    similarities = torch.tensor([[0.9, 0.9, 0.3, 0.3, 0.1]])
    votes = weighted_knn_vote(similarities, torch.tensor([[2, 1, 1, 2, 0]]), 3)
    assert votes[0, 1] == votes[0, 2] > votes[0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.zeros(2, 4, dtype=torch.int64)}, "do not fit"),
        ({"k": 6}, "k=.6. with 5 neighbours"),
        ({"k": 0}, "k=.0."),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"scores": torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]] * 2)}, "nearest first"),
        ({"scores": torch.full((2, 5), torch.nan)}, "nearest first"),
        ({"targets": torch.full((2, 5), 3)}, "neighbour 0 has label 3"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    arguments = {"scores": torch.full((2, 5), 0.5), "targets": torch.zeros(2, 5, dtype=torch.int64), "num_classes": 3}
    with pytest.raises(ValueError, match=message):
        weighted_knn_vote(**{**arguments, **change})
