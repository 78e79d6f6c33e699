"""Rows that carry their bytes: positions, names, decoding, stand-ins within the batch."""

import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synco_hub.data import TwoViewCollator, TwoViewDataset, TwoViewTransform
from synco_hub.data.decoding import UnreadableImageError, decode_rgb
from synco_hub.data.image_dataset import DatasetDescription
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.streams.images import (
    SPARE,
    StreamCollator,
    StreamedBatches,
    StreamedImages,
    StreamRow,
)

sys.path.insert(0, str(Path(__file__).parent))
from stream_tables import png

DESCRIPTION = DatasetDescription("tables", "tables, streamed", "train", 100, 0, "as published", "0" * 16)


def images() -> StreamedImages:
    return StreamedImages(["a.parquet", "b.parquet", "c.parquet"], DESCRIPTION)


def row(shard: int, number: int, cell=...) -> StreamRow:
    return StreamRow(shard, number, {"bytes": png(shard, number), "path": None} if cell is ... else cell)


def test_a_row_is_one_number_and_survives_the_way_to_a_worker():
    rows = [row(shard, number, b"x") for shard in (0, 1, 70_000) for number in (0, 1, 2**32 - 1)]
    assert len({int(one) for one in rows}) == len(rows)
    for one in rows:
        other = pickle.loads(pickle.dumps(one))
        assert (type(other), int(other), other.cell) == (StreamRow, int(one), b"x")
    assert images().name(row(2, 17)) == "c.parquet, row 17"


def test_the_picture_is_the_one_of_the_row():
    one = images().load_image(row(2, 300))
    assert one.getpixel((0, 0)) == (2, 1, 44)
    assert len(images()) == 100
    assert not images().is_labeled


def test_cells_of_every_kind(tmp_path):
    (tmp_path / "x.png").write_bytes(png(1, 2))
    for cell in (png(1, 2), {"bytes": png(1, 2)}, {"bytes": None, "path": str(tmp_path / "x.png")}):
        assert images().load_image(row(1, 2, cell)).getpixel((0, 0)) == (1, 0, 2)
    bomb = io.BytesIO()
    Image.fromarray(np.zeros((1, 1), dtype=np.uint8)).save(bomb, "PNG")
    header = bytearray(bomb.getvalue())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    for cell in (None, {}, {"bytes": b"", "path": None}, 7, [1, 2], png(0, 0)[:60], b"no picture", bytes(header)):
        with pytest.raises(UnreadableImageError, match=f"{images().shard_names[1]}, row 4"):
            images().load_image(row(1, 4, cell))


def test_views_depend_on_seed_epoch_and_row_and_not_on_the_batch():
    batches = StreamedBatches(TwoViewDataset(images(), TwoViewTransform(16), seed=3))
    one = batches.__getitems__([(4, row(0, 1)), (4, row(1, 2))])[1]
    other = batches.__getitems__([(4, row(1, 2)), (4, row(2, 5)), (4, row(2, 6))])[0]
    assert one["view_1"].equal(other["view_1"])
    assert one["view_2"].equal(other["view_2"])
    assert not batches[5, row(1, 2)]["view_1"].equal(one["view_1"])
    picture = decode_rgb(png(1, 2))
    assert TwoViewTransform(16)(picture, derive_random_key(3, 4, (1 << 32) + 2))[0].equal(one["view_1"])


def test_a_bad_row_is_replaced_by_another_of_its_batch_always_the_same():
    batches = StreamedBatches(TwoViewDataset(images(), TwoViewTransform(16), seed=3))
    bad = row(1, 9, b"rubbish")
    keys = [(0, row(0, 1)), (0, bad), (0, row(0, 2)), (0, row(0, 3, None))]
    first, second = batches.__getitems__(keys), batches.__getitems__(keys)
    assert [sample["bad_index"] for sample in first] == [-1, int(bad), -1, 3]
    for one, other in zip(first, second, strict=True):
        assert one["view_1"].equal(other["view_1"])
    key = derive_random_key(3, 0, int(bad))
    candidates = [TwoViewTransform(16)(decode_rgb(png(0, number)), key)[0] for number in (1, 2)]
    assert any(first[1]["view_1"].equal(view) for view in candidates)
    with pytest.raises(UnreadableImageError, match="neither could it be read"):
        batches.__getitems__([(0, bad), (0, row(1, 3, b""))])


def test_a_batch_of_bad_rows_alone_takes_its_spare_rows():
    batches = StreamedBatches(TwoViewDataset(images(), TwoViewTransform(16), seed=3))
    bad = row(1, 9, b"rubbish")
    samples = batches.__getitems__([(0, bad), (SPARE, None), (SPARE, row(0, 1))])
    assert [sample["bad_index"] for sample in samples] == [int(bad)]
    expected = TwoViewTransform(16)(decode_rgb(png(0, 1)), derive_random_key(3, 0, int(bad)))[0]
    assert samples[0]["view_1"].equal(expected)


def test_a_batch_in_which_the_stream_broke_off_is_empty():
    batches = StreamedBatches(TwoViewDataset(images(), TwoViewTransform(16)))
    collate = StreamCollator(TwoViewCollator())
    assert collate(batches.__getitems__([(0, row(0, 1)), (0, None)])) == {}
    assert collate(batches.__getitems__([(0, row(0, 1)), (0, row(0, 2))]))["view_1"].shape == (2, 3, 16, 16)


def test_a_plain_number_finds_no_row():
    with pytest.raises(ValueError, match="cannot be asked for by number"):
        images().load_image(3)
