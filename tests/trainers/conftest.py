"""What the tests of several trainers share."""

from collections.abc import Iterator

import pytest

from trainers.contrast import paired_products, synthetic_mixtures


@pytest.fixture
def as_on_an_accelerator() -> Iterator[None]:
    """The loss computes on this CPU as it does on an accelerator and in a compiler's trace."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (paired_products, synthetic_mixtures):
            patch.setattr(module, "computes_eagerly_on_cpu", lambda _: False)
        yield
