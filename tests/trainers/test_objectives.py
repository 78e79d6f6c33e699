import torch
from torch.nn import functional as F

from trainers.objectives import OBJECTIVES, agreement_loss


def test_agreement_is_half_the_squared_distance_of_unit_vectors():
    generator = torch.Generator().manual_seed(5)
    a, b = (F.normalize(torch.randn(9, 7, generator=generator, dtype=torch.float64), dim=1) for _ in range(2))
    expected = sum(((x - y) ** 2).sum() / 2 for x, y in zip(a, b, strict=True)) / 9
    torch.testing.assert_close(agreement_loss(a, b), expected)
    assert agreement_loss(a, a).abs() < 1e-12
    torch.testing.assert_close(agreement_loss(a, -a), torch.tensor(2.0, dtype=torch.float64))


def test_the_three_methods_differ_as_the_paper_says():
    traits = {name: (objective.has_queue, objective.synthesises) for name, objective in OBJECTIVES.items()}
    assert traits == {"synco-v2": (True, True), "moby": (True, False), "byol": (False, False)}
