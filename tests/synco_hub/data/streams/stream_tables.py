"""Small tables for the tests of streams: parquet and webdataset folders with the columns of real ones."""

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# What the `datasets` library writes into a parquet file's schema, so that the column is one of images.
IMAGE_FEATURES = (
    b'{"info": {"features": {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}}}'
)


def png(shard: int, row: int, side: int = 12) -> bytes:
    """A picture whose first pixel tells shard and row."""
    pixels = np.random.default_rng([shard, row]).integers(0, 256, (side, side + 3, 3), dtype=np.uint8)
    pixels[0, 0] = (shard, row // 256, row % 256)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_parquet(file: Path, cells: list[Any], with_label: bool = True, row_group: int = 5) -> None:
    """One shard; cells are bytes or None."""
    structs = pa.array(
        [{"bytes": cell, "path": f"{number}.png"} for number, cell in enumerate(cells)],
        type=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"image": structs, "label": pa.array(range(len(cells)), type=pa.int64())})
    if not with_label:
        table = table.drop(["label"])
    features = IMAGE_FEATURES if with_label else b'{"info": {"features": {"image": {"_type": "Image"}}}}'
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata({b"huggingface": features}), file, row_group_size=row_group)


def parquet_folder(folder: Path, counts: list[int], **options: Any) -> Path:
    """A folder of parquet shards with so many images each."""
    for shard, count in enumerate(counts):
        name = f"train-{shard:05d}-of-{len(counts):05d}.parquet"
        write_parquet(folder / name, [png(shard, row) for row in range(count)], **options)
    return folder


def webdataset_folder(folder: Path, counts: list[int]) -> Path:
    """A folder of tar shards, a picture and a class a sample."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"train-{shard:04d}.tar", "w") as archive:
            for row in range(count):
                for ending, data in (("png", png(shard, row)), ("cls", b"3")):
                    member = tarfile.TarInfo(f"{shard:02d}{row:04d}.{ending}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder
