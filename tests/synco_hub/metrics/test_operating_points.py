import torch

from synco_hub.metrics import operating_points


def test_counts_equal_a_loop_over_thresholds():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(6, (50,), generator=generator).float()
    targets = torch.randint(-1, 2, (50,), generator=generator)
    found, false = operating_points(scores, targets)
    for position, threshold in enumerate(sorted(set(scores[targets != -1].tolist()), reverse=True)):
        called = scores >= threshold
        assert found[position] == (called & (targets == 1)).sum()
        assert false[position] == (called & (targets == 0)).sum()
    assert len(found) == position + 1
