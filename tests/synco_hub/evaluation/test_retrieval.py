import hashlib
from pathlib import Path

import pytest
import torch

from synco_hub.data.revisited_retrieval import RetrievalData, RetrievalQuery
from synco_hub.evaluation.retrieval import retrieval_scores


def data(*grades):
    queries = tuple(RetrievalQuery(Path("q.jpg"), (0, 0, 1, 1), grade) for grade in grades)
    return RetrievalData("roxford5k", tuple(Path(f"{i}.jpg") for i in range(6)), queries, hashlib.md5(b"").hexdigest())


FIRST = {"easy": (0,), "hard": (2,), "junk": (1,)}


def test_three_setups_of_one_ranking():
    similarities = torch.tensor([[6.0, 5, 4, 3, 2, 1]])
    found = retrieval_scores(similarities, data(FIRST)).metrics
    # Easy: image 0 is first. Medium: 0 and 2 are first once junk 1 is gone. Hard: 0 and 1 are gone, 2 is first.
    assert {name: value for name, value in found.items() if name.startswith("map")} == {
        "map_easy": 100.0,
        "map_medium": 100.0,
        "map_hard": 100.0,
    }
    behind = retrieval_scores(similarities.flip(1), data(FIRST)).metrics
    # Reversed: 5 4 3 2 1 0. Easy: 0 stands behind 5 4 3, so (0 + 1/4) / 2. Hard: 2 stands behind 5 4 3.
    assert behind["map_easy"] == behind["map_hard"] == pytest.approx(12.5)
    # Medium: 2 at the fourth place, 0 at the fifth.
    assert behind["map_medium"] == pytest.approx(100 * ((0 + 1 / 4) / 2 + (1 / 4 + 2 / 5) / 2) / 2)
    assert behind["mp1_medium"] == 0.0
    assert behind["mp5_medium"] == behind["mp10_medium"] == pytest.approx(40.0)


def test_empty_queries_are_skipped_and_counted():
    empty = {"easy": (), "hard": (3,), "junk": ()}
    scores = retrieval_scores(torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 2), data(FIRST, empty))
    assert scores.queries == {"easy": 1, "medium": 2, "hard": 2}
    assert scores.metrics["map_easy"] == 100.0
    only_hard = retrieval_scores(torch.rand(1, 6), data(empty))
    assert set(only_hard.queries.values()) == {0, 1}
    assert not any(name.endswith("easy") for name in only_hard.metrics)
    with pytest.raises(ValueError, match="no query of roxford5k"):
        retrieval_scores(torch.rand(1, 6), data({"easy": (), "hard": (), "junk": (0,)}))
