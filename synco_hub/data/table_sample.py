"""Some rows of a table, spread over it, without downloading or reading the rest."""

import logging
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from tqdm.auto import tqdm

from synco_hub.data.hub_source import HubSource, called, datasets_library, opened_split
from synco_hub.data.table_columns import DIFFICULT_COLUMN, image_column_of, label_column_of, with_encoded_images

logger = logging.getLogger(__name__)

# Each costs a request of its own on the Hub.
PARTS_AT_MOST = 256
# Tables are often sorted by class: of neighbouring rows only some are kept.
READ_PER_KEPT = 5
_ROWS_A_BLOCK = 1000


def sampled_rows(source: HubSource, stored_split: str, max_rows: int) -> Any:
    """Rows from evenly spaced parts of a split (row groups of parquet files, else files), in stored order.

    As many of each part, drawn at random from its beginning; the same ones at every call. At most five times as many
    rows are read as kept. Where parts are of very different length, they are fewer than asked for.

    Args:
        source: Which table and columns.
        stored_split: Its own name of a split, or several joined by `+`.
        max_rows: Rows that are kept at most.

    Returns:
        A `datasets.Dataset` in memory with the columns of images and classes, the images not decoded. Shape:
        (num_rows,).

    Raises:
        ImportError: If the `datasets` library is not installed.
        ValueError: If the number is below 1, or the table cannot be read, or has no such split or columns.
    """
    if max_rows < 1:
        raise ValueError(f"max_images={max_rows} of {source.dataset_id}: give at least 1, or leave it out for all.")
    library = datasets_library(source.dataset_id)
    tables = [_columns(source, name) for name in stored_split.split("+")]
    parts = [part for table in tables for part in _parts(table)]
    parts = [parts[position] for position in _evenly(len(parts), min(PARTS_AT_MOST, max_rows))]
    if not parts:
        raise ValueError(f"{source.dataset_id} (split {stored_split}): it has no rows; give another data set.")
    count, kept, blocks = 0, [], []
    with tqdm(total=max_rows, desc=f"sample of {source.dataset_id}", unit=" images", disable=None) as bar:
        for number, part in enumerate(parts):
            quota = -(-(max_rows - count) // (len(parts) - number))
            rows = called(source, _drawn, part, quota, number)
            bar.update(len(rows))
            count += len(rows)
            kept += rows
            if len(kept) >= _ROWS_A_BLOCK or number == len(parts) - 1:
                # In blocks, since one column of bytes cannot hold more than 2 GB.
                blocks.append(library.Dataset.from_list(kept, features=tables[0].features))
                kept = []
    table = library.concatenate_datasets([block for block in blocks if len(block)] or blocks[:1])
    logger.info("%s: %d rows of %d parts", source.dataset_id, len(table), len(parts))
    return table


def _columns(source: HubSource, stored_split: str) -> Any:
    """A split as a stream of what is needed of each row."""
    table = opened_split(source, stored_split, streaming=True)
    if table.features is None:
        raise ValueError(
            f"{source.dataset_id} does not say which columns it has, so that images with classes cannot be picked out "
            "of it; name another data set for them."
        )
    image, label = image_column_of(table, source), label_column_of(table, source)
    wanted = [name for name in (image, label, DIFFICULT_COLUMN) if name in table.features]
    return with_encoded_images(table.select_columns(wanted), image, source)


def _parts(table: Any) -> Iterator[Any]:
    """The smallest parts of a stream that can be read alone."""
    if table.num_shards <= PARTS_AT_MOST and hasattr(table, "reshard"):  # datasets 4.0 has none
        table = table.reshard()
    return (table.shard(num_shards=table.num_shards, index=index) for index in range(table.num_shards))


def _evenly(length: int, count: int) -> list[int]:
    """`count` evenly spaced positions, or all."""
    return list(range(length)) if length <= count else [position * length // count for position in range(count)]


def _drawn(part: Any, quota: int, seed: int) -> list[Any]:
    """A uniform sample of the first rows of a part, in stored order."""
    generator = random.Random(seed)
    drawn: list[tuple[int, Any]] = []
    for position, row in enumerate(islice(part, quota * READ_PER_KEPT)):
        if len(drawn) < quota:
            drawn.append((position, row))
        elif (place := generator.randrange(position + 1)) < quota:
            drawn[place] = (position, row)
    return [row for _, row in sorted(drawn, key=lambda pair: pair[0])]
