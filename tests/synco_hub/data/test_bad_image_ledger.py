import pytest
import torch

from synco_hub.data.bad_image_ledger import BadImageLedger, TooManyBadImagesError


class Files:
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"f{index:04d}.jpg"


def test_distinct_images_are_counted_once() -> None:
    ledger = BadImageLedger(Files(1000), max_bad_fraction=0.01)
    for _ in range(50):
        ledger.record(torch.tensor([-1, 7, -1, 3]))
    ledger.record([3, -1])
    assert len(ledger) == 2
    assert ledger.indices == [3, 7]
    assert ledger.names() == ["f0003.jpg", "f0007.jpg"]
    assert "2 of 1000 images cannot be read: f0003.jpg, f0007.jpg" in ledger.summary()


def test_the_run_ends_above_the_share_and_not_at_it() -> None:
    ledger = BadImageLedger(Files(1000), max_bad_fraction=0.012)
    ledger.record(torch.arange(12))
    with pytest.raises(
        TooManyBadImagesError, match=r"13 of 1000 .*f0009\.jpg and 3 more; .*--max-bad-fraction"
    ) as caught:
        ledger.record(torch.tensor([12]))
    assert "f0010" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_the_default_is_one_percent_and_the_extremes_work() -> None:
    ledger = BadImageLedger(Files(200))
    ledger.record([0, 1])
    with pytest.raises(TooManyBadImagesError):
        ledger.record([2])
    strict = BadImageLedger(Files(10), 0.0)
    strict.record([-1, -1])
    with pytest.raises(TooManyBadImagesError):
        strict.record([0])
    BadImageLedger(Files(3), 1.0).record([0, 1, 2])


def test_nothing_bad() -> None:
    ledger = BadImageLedger(Files(10))
    ledger.record(torch.full((4,), -1))
    assert ledger.names() == []
    assert "good" in ledger.summary()


def test_limits_are_checked() -> None:
    for share in (-0.1, 1.5):
        with pytest.raises(ValueError, match="max_bad_fraction"):
            BadImageLedger(Files(1), share)
