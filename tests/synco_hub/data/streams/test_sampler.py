"""Epochs of a stream through the real loader: every image once, for any number of workers and processes."""

import itertools
import json
import sys
import threading
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from synco_hub.data.streams.images import SPARE, StreamCollator, StreamedBatches
from synco_hub.data.streams.retries import StreamReadError
from synco_hub.data.streams.sampler import StreamBatchSampler, StreamSampler, StreamSettings, _ReadAhead
from synco_hub.data.streams.source import open_stream

sys.path.insert(0, str(Path(__file__).parent))
from stream_tables import parquet_folder, webdataset_folder


class FirstPixels:
    """Views that tell which row they are of."""

    def __init__(self, images):
        self.images = images

    def __getitem__(self, key):
        return key[0], self.images.load_image(key[1]).getpixel((0, 0))


class Rows:
    """A source without files: counts known or not, and shards that fail."""

    def __init__(self, counts, known=True, breaks=None):
        self.real, self.breaks, self.opened = counts, breaks or {}, []
        self.counts = tuple(counts) if known else (None,) * len(counts)
        self.shard_names = [f"s{number}" for number in range(len(counts))]

    def cells(self, shard):
        self.opened.append(shard)
        for row in range(self.real[shard]):
            if self.breaks.get(shard) == row:
                raise ConnectionError("gone")
            yield (shard, row)


def loaded(source, epoch, rank, world, workers, batch=2, seed=0):
    """Batches of (epoch, first pixel) as a `DataLoader` with workers gives them."""
    rows = sum(source.counts) // (batch * world) * batch
    sampler = StreamSampler(source, StreamSettings(seed, shuffle_buffer=9), rows, rank, world)
    sampler.set_epoch(epoch)
    loader = DataLoader(
        StreamedBatches(FirstPixels(source.images())),
        batch_sampler=StreamBatchSampler(sampler, batch),
        num_workers=workers,
        collate_fn=StreamCollator(list),
    )
    batches = [[pixel for seen, pixel in samples if seen == epoch] for samples in loader]
    assert [len(samples) for samples in batches] == [batch] * len(loader)
    return batches


@pytest.mark.parametrize("kind", [parquet_folder, webdataset_folder])
def test_every_image_once_with_four_workers_at_one_two_and_three_processes(tmp_path, kind):
    source = open_stream(kind(tmp_path / "data", [9, 9, 9, 9]))
    everything = Counter((shard, 0, row) for shard in range(4) for row in range(9))
    for world in (1, 2, 3):
        steps = [loaded(source, 0, rank, world, workers=4) for rank in range(world)]
        assert len({len(batches) for batches in steps}) == 1
        seen = Counter(chain.from_iterable(chain.from_iterable(steps)))
        assert seen == everything, world


def test_the_order_is_another_one_each_epoch_and_seed_and_the_same_for_any_number_of_workers(tmp_path):
    source = open_stream(parquet_folder(tmp_path, [7, 8, 5]))
    orders = [loaded(source, epoch, 0, 1, 0) for epoch in range(3)]
    assert len({str(order) for order in orders}) == 3
    assert loaded(source, 1, 0, 1, 3) == loaded(source, 1, 0, 1, 1) == orders[1]
    assert loaded(source, 1, 0, 1, 0, seed=1) != orders[1]


def test_only_the_last_incomplete_global_batch_is_left_out():
    source = Rows([10, 3, 10, 4])
    for world in (1, 2, 3, 4):
        rows = 27 // (2 * world) * 2
        seen = Counter(
            chain.from_iterable(
                [row.cell for _, row in StreamSampler(source, StreamSettings(0, 5), rows, rank, world)]
                for rank in range(world)
            )
        )
        assert max(seen.values()) == 1
        assert len(seen) == rows * world > 27 - 2 * world


def test_of_unknown_shards_a_short_part_begins_again_so_that_all_take_the_same_steps():
    source = Rows([9, 3], known=False)
    long, short = (
        [row.cell for _, row in StreamSampler(source, StreamSettings(0, 4), 6, rank, 2)] for rank in range(2)
    )
    assert len(long) == len(short) == 6
    assert len(set(long)) == 6
    assert Counter(short) == Counter({(1, row): 2 for row in range(3)})


def test_nothing_is_read_beyond_the_epoch():
    source = Rows([5, 5])
    assert len(list(StreamSampler(source, StreamSettings(0, 3), 10))) == 10
    assert sorted(source.opened) == [0, 1]


def test_where_the_network_fails_for_good_the_rest_of_the_epoch_is_marked_and_the_next_one_tries_again():
    before = threading.active_count()
    source = Rows([20, 20], breaks={1: 10})
    sampler = StreamSampler(source, StreamSettings(0, 4, retries=0), 40)
    rows = list(sampler)
    good = [row.cell for _, row in rows if row is not None]
    assert len(rows) == 40
    assert [row is None for _, row in rows] == [False] * len(good) + [True] * (40 - len(good))
    # The buffer held 4 back; everything before is used, in the order of an unbroken epoch.
    assert len(good) >= 2 * 10 - 4 - 1
    assert isinstance(sampler.failure, StreamReadError)
    assert "s1 cannot be read beyond row 10 (ConnectionError: gone)" in str(sampler.failure)
    source.breaks = {}
    whole = [row.cell for _, row in sampler]
    assert whole[: len(good)] == good
    assert sampler.failure is None
    assert threading.active_count() == before


def test_an_epoch_abandoned_behind_its_last_row_takes_nothing_from_the_next_when_it_is_collected():
    source = Rows([400, 300])
    sampler = StreamSampler(source, StreamSettings(0, 20), 700)
    sampler.set_epoch(1)
    whole = [row.cell for _, row in sampler]
    sampler.set_epoch(0)
    # A training loop takes as many rows as an epoch has and never asks for the end.
    abandoned = iter(sampler)
    for _ in range(700):
        next(abandoned)
    unfinished = iter(sampler)
    next(unfinished)
    sampler.set_epoch(1)
    rows = iter(sampler)
    seen = [next(rows)[1].cell for _ in range(100)]
    abandoned.close()
    unfinished.close()
    seen += [row.cell for _, row in rows]
    assert seen == whole


def test_closing_ends_the_threads_of_every_iteration():
    before = threading.active_count()
    sampler = StreamSampler(Rows([400, 300]), StreamSettings(0, 4), 700)
    iterations = [iter(sampler), iter(sampler)]
    for rows in iterations:
        next(rows)
    assert threading.active_count() > before
    sampler.close()
    assert threading.active_count() == before


def test_a_shard_that_changed_since_it_was_counted_and_one_without_rows_are_failures():
    shrunk = Rows([6])
    shrunk.real = [4]
    for source, text in ((shrunk, "it had 6 rows at the start"), (Rows([0], known=False), "no rows for process 0")):
        sampler = StreamSampler(source, StreamSettings(0, 2), 6)
        assert list(sampler)[-1] == (0, None)
        assert text in str(sampler.failure)


def test_a_bar_is_told_of_every_row():
    told = []
    sampler = StreamSampler(Rows([5]), StreamSettings(), 4)
    sampler.on_row = told.append
    list(sampler)
    assert told == [1, 2, 3, 4]


def test_batches_bring_spare_rows_of_their_neighbour():
    sampler = StreamSampler(Rows([11]), StreamSettings(0, 0), 11)
    batches = list(StreamBatchSampler(sampler, 5))
    assert len(batches) == len(StreamBatchSampler(sampler, 5)) == 2
    numbers = [[(epoch, row.cell[1]) for epoch, row in batch] for batch in batches]
    assert numbers[0] == [(0, row) for row in range(5)] + [(SPARE, row) for row in (5, 6, 7, 8)]
    assert numbers[1] == [(0, row) for row in range(5, 10)] + [(SPARE, row) for row in (0, 1, 2, 3)]
    assert len(next(iter(StreamBatchSampler(sampler, 11)))) == 11
    assert list(StreamBatchSampler(sampler, 12)) == []


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="--shuffle-buffer -1"):
        StreamSettings(shuffle_buffer=-1)
    with pytest.raises(ValueError, match="--stream-retries -2"):
        StreamSettings(retries=-2)


def test_a_thread_gives_rows_in_order_and_the_end_is_the_end():
    reader = _ReadAhead(lambda wait: iter(range(200)), rows_ahead=3)
    assert list(reader) == list(range(200))
    with pytest.raises(StopIteration):
        next(reader)


def test_an_error_comes_out_behind_the_rows_before_it():
    def rows(wait):
        yield 1
        raise ConnectionError("gone")

    reader = _ReadAhead(rows)
    assert next(reader) == 1
    with pytest.raises(ConnectionError, match="gone"):
        next(reader)


def test_a_thread_reads_no_further_ahead_than_told_and_stops_when_closed():
    read, before = [], threading.active_count()

    def rows(wait):
        for row in range(10_000):
            read.append(row)
            yield row

    reader = _ReadAhead(rows, rows_ahead=5)
    assert next(reader) == 0
    deadline = time.monotonic() + 10
    while len(read) < 7 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(read) == 7  # one taken, five waiting, one in hand
    reader.close()
    assert threading.active_count() == before
    assert len(read) == 7
    assert list(reader) == []


def test_closing_ends_a_threads_pause():
    paused = threading.Event()

    def rows(wait):
        paused.set()
        wait(3600)
        yield 1

    reader = _ReadAhead(rows)
    assert paused.wait(10)
    reader.close()
    assert not reader._thread.is_alive()


def test_a_reader_may_be_closed_in_its_own_thread():
    readers, failures = [], []
    started = threading.Event()

    def rows(wait):
        started.wait(10)
        try:
            readers[0].close()
        except RuntimeError as error:
            failures.append(error)
        yield 1

    readers.append(_ReadAhead(rows))
    started.set()
    readers[0]._thread.join(10)
    assert failures == []
    assert list(readers[0]) == []


def epochs_of(source, rows, epochs, rank=0, world=1, fresh=False, **settings):
    """The cells of several epochs; fresh: each by a sampler of its own, as a resumed run has it."""
    sampler = StreamSampler(source, StreamSettings(**{"shuffle_buffer": 7, **settings}), rows, rank, world)
    for epoch in epochs:
        if fresh:
            sampler.close()
            sampler = StreamSampler(source, sampler.settings, rows, rank, world)
        sampler.set_epoch(epoch)
        yield [row.cell for _, row in sampler]
    sampler.close()


class SeekableRows(Rows):
    """As `Rows`; reads on from a row."""

    def cells(self, shard, start=0):
        yield from itertools.islice(super().cells(shard), start, None)


@pytest.mark.parametrize("counts", [[20, 20, 20, 20, 20, 20], [31, 7, 1, 40, 13, 28], [120]])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_short_epochs_go_through_all_rows_once_before_any_comes_again(counts, world):
    source = SeekableRows(counts)
    drawn = [list(epochs_of(source, 5, range(60), rank, world)) for rank in range(world)]
    for epoch in range(60):
        together = [cell for rank in range(world) for cell in drawn[rank][epoch]]
        assert len(together) == 5 * world
    for rank in range(world):
        own = [cell for epoch in drawn[rank] for cell in epoch]
        part = StreamSampler(source, StreamSettings(), 5, rank, world).part
        mine = {(shard, row) for shard in part.shards for row in range(counts[shard]) if part.owns(shard, row)}
        draws = Counter(own)
        assert set(draws) == mine
        assert max(draws.values()) - min(draws[cell] for cell in mine) <= 1
    # Another epoch mixes its rows another way, and a second pass takes the shards in another order.
    assert len({str(epoch) for epoch in drawn[0]}) > 50


def test_every_row_of_a_long_stream_is_drawn_as_often_as_any_other(tmp_path):
    source = open_stream(parquet_folder(tmp_path / "t", [50, 50], row_group=7))
    sampler = StreamSampler(source, StreamSettings(0, 16), rows_per_epoch=10)
    draws = Counter()
    for epoch in range(30):
        sampler.set_epoch(epoch)
        draws.update(int(row) for _, row in sampler)
    sampler.close()
    assert len(draws) == 100
    assert set(draws.values()) == {3}


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2), (2, 3)])
def test_an_epoch_begins_where_it_would_have_if_the_ones_before_had_run(rank, world):
    for counts in ([20] * 6, [31, 7, 1, 40, 13, 28], [120]):
        source = SeekableRows(counts)
        through = list(epochs_of(source, 11, range(25), rank, world))
        assert list(epochs_of(source, 11, range(25), rank, world, fresh=True)) == through
        assert list(epochs_of(source, 11, [17, 3], rank, world)) == [through[17], through[3]]


def test_little_is_read_on_the_way_to_a_late_epoch(tmp_path):
    source = open_stream(parquet_folder(tmp_path / "t", [60, 60], row_group=5))
    through = list(epochs_of(source, 12, range(9), shuffle_buffer=5))
    for cells in through:
        assert len(cells) == 12
    started = []
    original = type(source).cells

    class Watched:
        counts, shard_names = source.counts, source.shard_names

        def cells(self, shard, start=0):
            started.append((shard, start))
            return original(source, shard, start)

    later = next(iter(epochs_of(Watched(), 12, [8], shuffle_buffer=5)))
    assert later == through[8]
    assert started == [(0, 48), (1, 48)] or started == [(1, 48), (0, 48)]


def test_where_lengths_are_unknown_an_epoch_begins_at_a_place_that_was_kept():
    source = SeekableRows([9, 3, 14, 5, 8], known=False)
    sampler, places, through = StreamSampler(source, StreamSettings(0, 4), 6), [], []
    for epoch in range(12):
        places.append(sampler.place_of_epoch(epoch))
        sampler.set_epoch(epoch)
        through.append([row.cell for _, row in sampler])
    sampler.close()
    assert Counter(chain.from_iterable(through[:13])).most_common()[-1][1] >= 1
    for epoch in range(1, 12):
        resumed = StreamSampler(source, StreamSettings(0, 4), 6)
        resumed.begin_epoch_at(epoch, json.loads(json.dumps(places[epoch])))
        source.opened.clear()
        resumed.set_epoch(epoch)
        assert [row.cell for _, row in resumed] == through[epoch]
        assert resumed.place_of_epoch(epoch) == places[epoch]
        resumed.close()
        assert len(source.opened) <= 8
        # Without a place all rows before it are read.
        assert list(epochs_of(source, 6, [epoch], shuffle_buffer=4)) == [through[epoch]]


def test_workers_do_not_change_the_order_of_short_epochs(tmp_path):
    source = open_stream(parquet_folder(tmp_path, [9, 8, 9]))
    seen = {}
    for workers in (0, 2):
        sampler = StreamSampler(source, StreamSettings(3, shuffle_buffer=4), 6)
        loader = DataLoader(
            StreamedBatches(FirstPixels(source.images(6))),
            batch_sampler=StreamBatchSampler(sampler, 2),
            num_workers=workers,
            collate_fn=StreamCollator(list),
        )
        seen[workers] = []
        for epoch in range(5):
            sampler.set_epoch(epoch)
            seen[workers] += [pixel for batch in loader for _, pixel in batch]
        sampler.close()
    assert seen[0] == seen[2]
    assert len(seen[0]) == 30
    assert set(Counter(seen[0]).values()) == {1, 2}


def test_a_short_epoch_that_breaks_off_begins_again_where_it_began():
    source = SeekableRows([20, 20], breaks={1: 10})
    sampler = StreamSampler(source, StreamSettings(0, 4, retries=0), 8)
    whole = list(epochs_of(SeekableRows([20, 20]), 8, range(4), shuffle_buffer=4))
    for epoch in (0, 1, 2):
        sampler.set_epoch(epoch)
        rows = [row for _, row in sampler]
    assert rows[-1] is None
    assert "s1 cannot be read beyond row 10" in str(sampler.failure)
    source.breaks = {}
    assert [row.cell for _, row in sampler] == whole[2]
    sampler.set_epoch(3)
    assert [row.cell for _, row in sampler] == whole[3]
    sampler.close()
