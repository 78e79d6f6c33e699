"""Who reads which rows, in which order: every row once, whatever the shards and processes."""

import random
from collections import Counter
from itertools import chain

import pytest

from synco_hub.data.streams.order import BY_ROWS, BY_SHARDS, interleave, shard_order, shuffle_rows, stream_part


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("counts", [[7, 7, 7, 7], [1, 20, 3], [9], [0, 5, 0, 6], [4, 4, 4]])
@pytest.mark.parametrize("known", [True, False])
def test_every_row_has_one_owner_and_parts_are_even_where_the_counts_are_known(counts, world, known):
    needed = sum(counts) // world
    said = counts if known else [None] * len(counts)
    parts = [stream_part(said, rank, world, needed) for rank in range(world)]
    assert len({part.rule for part in parts}) == 1
    owned = [
        [(shard, row) for shard in part.shards for row in range(counts[shard]) if part.owns(shard, row)]
        for part in parts
    ]
    everything = Counter((shard, row) for shard, count in enumerate(counts) for row in range(count))
    assert Counter(chain(*owned)) == everything
    if known:
        assert min(map(len, owned)) >= needed


def test_whole_shards_are_shared_out_where_they_fit_and_rows_where_they_do_not():
    assert stream_part([10, 10, 10, 10], 1, 2, 20).shards == (1, 3)
    assert stream_part([10, 10, 10, 10], 1, 2, 20).rule == BY_SHARDS
    assert stream_part([10, 10, 10], 0, 2, 15).rule == BY_ROWS
    # One process would run dry.
    assert stream_part([19, 21], 0, 2, 20).rule == BY_ROWS
    assert stream_part([None, None], 0, 2, 20).rule == BY_SHARDS
    assert stream_part([3], 0, 1, 3).rule == BY_SHARDS


def test_the_order_of_shards_depends_on_its_keys_alone():
    part = stream_part([1] * 20, 0, 1, 20)
    orders = [shard_order(part, 5, epoch, 0) for epoch in range(4)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[2] == shard_order(part, 5, 2, 0) != shard_order(part, 6, 2, 0)


def test_interleaving_takes_turns_and_fills_the_place_of_a_shard_that_ends():
    shards = {0: "aaa", 1: "b", 2: "cc", 3: "dd"}
    text = "".join(interleave([0, 1, 2, 3], lambda shard: iter(shards[shard]), 2))
    assert text == "abacacdd"
    assert "".join(interleave([3, 1], lambda shard: iter(shards[shard]), 4)) == "dbd"
    assert list(interleave([], lambda shard: iter(shards[shard]))) == []


@pytest.mark.parametrize("size", [0, 1, 2, 7, 50, 51, 500])
def test_a_buffer_of_any_size_gives_every_row_away_once(size):
    rows = list(range(50))
    out = list(shuffle_rows(rows, size, 3, 1))
    assert sorted(out) == rows
    assert (out == rows) == (size < 2)
    # A row never comes earlier than the buffer can hold it back.
    assert all(row - place <= size for place, row in enumerate(out))
    assert out == list(shuffle_rows(rows, size, 3, 1))
    if size > 2:
        assert out != list(shuffle_rows(rows, size, 3, 2))


def test_a_buffer_as_large_as_the_data_is_a_fair_shuffle():
    places = Counter(next(shuffle_rows(range(5), 5, seed)) for seed in range(4000))
    assert all(abs(count - 800) < 5 * 25.3 for count in places.values()), places


def test_the_buffer_reads_no_further_than_it_must():
    read = []

    def rows():
        for row in range(100):
            read.append(row)
            yield row

    stream = shuffle_rows(rows(), 10, random.Random(0).randrange(100))
    for number in range(5):
        next(stream)
        assert len(read) == 11 + number
