import pytest
import torch
from torch.nn import functional as F

from trainers.projection_heads import projection_head


@pytest.mark.parametrize(("input_dim", "count"), [(384, 2_633_984), (256, 2_109_696)])
def test_heads_of_the_paper_have_its_parameter_counts(input_dim, count):
    assert sum(p.numel() for p in projection_head(input_dim).parameters()) == count


def test_head_equals_the_formula_written_out():
    generator = torch.Generator().manual_seed(2)
    head = projection_head(5, 11, 3)
    first, _, _, last = head
    x = torch.randn(16, 5, generator=generator)
    hidden = x @ first.weight.T + first.bias
    normalised = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(x), F.relu(normalised) @ last.weight.T + last.bias)


def test_without_norm_a_sample_does_not_depend_on_its_batch():
    head = projection_head(5, 11, 3, norm="none")
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(head(x)[:2], head(x[:2]))
