"""Which image is read when, and by whom, is written down by the data set itself."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset

from synco_hub.data import EpochSampler, TwoViewCollator
from synco_hub.data.views.dataset import ViewPair
from trainers.pretraining_arguments import SynCoTrainingArguments
from trainers.runs.reading_ahead import PIECES, BatchesReadAhead

IMAGES, BATCH, SEED = 26, 6, 7


class Logged(Dataset[ViewPair]):
    """Views that show their epoch and index."""

    def __init__(self, log: Path, side: Callable[[int], int] = lambda index: 2) -> None:
        self.log = log
        self.side = side

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, key: tuple[int, int]) -> ViewPair:
        epoch, index = key
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {epoch} {index} {signal.getsignal(signal.SIGINT) == signal.SIG_IGN}\n")
        view = torch.full((3, self.side(index), 2), 100.0 * epoch + index)
        return ViewPair(view_1=view, view_2=-view, index=index, bad_index=index)


def reads(log: Path) -> list[tuple[int, int, int, bool]]:
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return [(int(pid), int(epoch), int(index), ignores == "True") for pid, epoch, index, ignores in lines]


class Reading:
    def __init__(
        self, log: Path, workers: int = 2, epochs: int = 3, share: tuple[int, int] = (1, 0), dataset: Any = None,
        collate: Any = None, **flags: Any,
    ) -> None:  # fmt: skip
        args = SynCoTrainingArguments(
            output_dir=str(log.parent), use_cpu=True, dataloader_num_workers=workers, seed=SEED, **flags
        )
        self.sampler = EpochSampler(IMAGES, SEED)
        self.ahead = BatchesReadAhead(dataset or Logged(log), collate or TwoViewCollator(), args)
        self.loader: DataLoader[Any] = prepare_data_loader(
            self.ahead.loader(BATCH, self.sampler), num_processes=share[0], process_index=share[1]
        )
        self.ahead.follow(self.loader.batch_sampler, self.sampler, epochs)

    def epoch(self, number: int, skipped: int = 0) -> Any:
        self.sampler.set_epoch(number)
        loader = skip_first_batches(self.loader, skipped) if skipped else self.loader
        loader.set_epoch(number)
        return iter(loader)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "reads"


def batches_of(epoch: int, share: tuple[int, int] = (1, 0)) -> list[list[int]]:
    """The indices of each batch, by the definition: whole batches in the order of the epoch, dealt out in turn."""
    sampler = EpochSampler(IMAGES, SEED)
    sampler.set_epoch(epoch)
    order = [index for _, index in sampler]
    whole = [order[begin : begin + BATCH] for begin in range(0, IMAGES - BATCH + 1, BATCH)]
    return whole[share[1] :: share[0]]


def shown(batch: dict[str, torch.Tensor], epoch: int) -> list[int]:
    """The indices that a batch's views show; both views and the number beside them agree."""
    indices = (batch["view_1"][:, 0, 0, 0] - 100 * epoch).long()
    assert torch.equal(batch["view_2"], -batch["view_1"])
    assert torch.equal(batch["bad_index"], indices)
    return indices.tolist()


@pytest.mark.parametrize("share", [(1, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_batch_is_the_one_of_its_place(log: Path, workers: int, share: tuple[int, int]) -> None:
    reading = Reading(log, workers, share=share)
    for epoch in range(3):
        assert [shown(batch, epoch) for batch in reading.epoch(epoch)] == batches_of(epoch, share)
    assert len(reads(log)) == 3 * len(batches_of(0, share)) * BATCH  # each once, and nothing beyond the run


def test_the_workers_share_the_first_batch(log: Path) -> None:
    reading = Reading(log, workers=3)
    next(reading.epoch(0))
    by_worker: dict[int, list[int]] = {}
    first = batches_of(0)[0]
    for pid, epoch, index, _ in reads(log):
        if epoch == 0 and index in first:
            by_worker.setdefault(pid, []).append(index)
    assert sorted(by_worker.values(), key=lambda part: first.index(part[0])) == [first[:2], first[2:4], first[4:]]


def test_so_many_workers_that_some_read_the_next_batches(log: Path) -> None:
    reading = Reading(log, workers=PIECES + 2, dataloader_prefetch_factor=1)
    next(reading.epoch(0))
    parts = {pid for pid, epoch, index, _ in reads(log) if epoch == 0 and index in batches_of(0)[0]}
    assert len(parts) == 3  # six images in pieces of two, as many pieces as may be


def wait_until(holds: Callable[[], bool]) -> bool:
    for _ in range(600):
        if holds():
            return True
        time.sleep(0.1)
    return False


def test_the_next_epoch_is_read_before_this_one_ends(log: Path) -> None:
    reading = Reading(log, dataloader_prefetch_factor=1)
    batches = reading.epoch(0)
    for _ in range(len(batches_of(0)) - 1):
        next(batches)
    assert wait_until(lambda: {epoch for _, epoch, _, _ in reads(log)} == {0, 1})
    first = batches_of(1)[0]
    assert {index for _, epoch, index, _ in reads(log) if epoch == 1} <= {*first, *batches_of(1)[1]}
    assert len(list(batches)) == 1


def test_workers_that_end_with_the_epoch_read_no_further(log: Path) -> None:
    reading = Reading(log, dataloader_persistent_workers=False)
    workers = []
    for epoch in range(2):
        assert [shown(batch, epoch) for batch in reading.epoch(epoch)] == batches_of(epoch)
        assert {read[1] for read in reads(log)} == set(range(epoch + 1))
        workers.append({pid for pid, of, _, _ in reads(log) if of == epoch})
    assert not workers[0] & workers[1]


def test_a_resumed_epoch_reads_nothing_that_it_skips(log: Path) -> None:
    reading = Reading(log)
    assert [shown(batch, 1) for batch in reading.epoch(1, skipped=2)] == batches_of(1)[2:]
    assert [shown(batch, 2) for batch in reading.epoch(2)] == batches_of(2)
    skipped = {index for batch in batches_of(1)[:2] for index in batch}
    assert not skipped & {index for _, epoch, index, _ in reads(log) if epoch == 1}


def test_what_is_not_next_begins_anew_and_what_is_nowhere_is_refused(log: Path) -> None:
    ahead = Reading(log).ahead
    for epoch, place in ((0, 0), (0, 1), (2, 3), (1, 0), (1, 0), (5, 2)):
        keys = [(epoch, index) for index in batches_of(epoch)[place]]
        assert shown(ahead.__getitems__(keys), epoch) == batches_of(epoch)[place]
    with pytest.raises(AssertionError, match="none of epoch 1"):
        ahead.__getitems__([(1, 0)] * BATCH)


def test_somebody_s_own_collator_gets_whole_batches(log: Path) -> None:
    def collate(items: list[ViewPair]) -> list[int]:
        return [item["index"] for item in items]

    assert list(Reading(log, collate=collate).epoch(0)) == batches_of(0)


def test_several_sizes_in_one_batch_are_refused_also_between_its_pieces(log: Path) -> None:
    first = batches_of(0)[0]
    dataset = Logged(log, side=lambda index: 2 if index in first[:3] else 3)
    with pytest.raises(ValueError, match=r"View 1 has several sizes in one batch \(\(3, 2, 2\), \(3, 3, 2\)\)"):
        next(Reading(log, dataset=dataset).epoch(0))


def test_the_trainings_generator_draws_what_it_draws_without_workers(log: Path) -> None:
    torch.manual_seed(3)
    plain = DataLoader(Logged(log), BATCH, sampler=EpochSampler(IMAGES, SEED), collate_fn=TwoViewCollator())
    next(iter(plain))
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    next(Reading(log).epoch(0))
    assert torch.equal(torch.get_rng_state(), expected)


def test_workers_leave_signals_to_the_main_process_and_end_when_they_are_closed(log: Path) -> None:
    reading = Reading(log)
    next(reading.epoch(0))
    assert all(ignores for _, _, _, ignores in reads(log))
    workers = {pid for pid, _, _, _ in reads(log)}
    assert os.getpid() not in workers
    reading.ahead.close()
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
