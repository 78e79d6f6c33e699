"""What the tests of several trainers share."""

import pytest

from trainers import paired_products, random_numbers, synthetic_mixtures


@pytest.fixture
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss computes on this CPU as it does on an accelerator and in a compiler's trace."""
    for module in (paired_products, random_numbers, synthetic_mixtures):
        monkeypatch.setattr(module, "computes_eagerly_on_cpu", lambda _: False)
