"""What the tests of several trainers share."""

from collections.abc import Iterator

import pytest

from trainers import fused_contrastive_loss, synthetic_negatives


@pytest.fixture
def as_on_an_accelerator() -> Iterator[None]:
    """The loss computes on this CPU as it does on an accelerator and in a compiler's trace."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (fused_contrastive_loss, synthetic_negatives):
            patch.setattr(module, "computes_eagerly_on_cpu", lambda _: False)
        yield
