"""Tables of embeddings on the disk: parts of one are put together, a whole one is read."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from datasets import ClassLabel, Features
from numpy.lib.format import open_memmap
from pyarrow import parquet

from synco_hub.atomic_write import atomic_write

FACTS = b"synco_hub"
TABLE_SUFFIX, ARRAY_SUFFIX = ".parquet", ".npy"


@dataclass(frozen=True)
class Embeddings:
    """What `embed` wrote, read again.

    Attributes:
        file_names: Path of each image in its data set.
        splits: `train`, `test`, or "" for an image that is in neither.
        labels: Class indices, -1 for none; None where the data set has none. Shape: (num_images,).
        class_names: One name a class.
        vectors: float32. Shape: (num_images, dim), of patches (num_images, patches, dim).
        facts: What they are of: model, data set, feature.
    """

    file_names: list[str]
    splits: list[str]
    labels: npt.NDArray[np.int64] | None
    class_names: list[str]
    vectors: npt.NDArray[np.float32]
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Embeddings:
        """Read a file or folder of `embed`.

        Raises:
            ValueError: If it is none, is damaged, or its files are of different models.
            FileNotFoundError: If it is not there.
        """
        place = Path(path)
        files = sorted(place.glob(f"*{TABLE_SUFFIX}")) if place.is_dir() else [place]
        if not place.exists():
            raise FileNotFoundError(f"{str(place)!r} does not exist: write it with `synco-hub embed --output {place}`")
        if not files:
            raise ValueError(f"{str(place)!r} holds no {TABLE_SUFFIX} file: write it with `synco-hub embed`")
        try:
            tables = [parquet.read_table(file) for file in files]
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(
                f"{str(place)!r} is no whole parquet file ({str(error).splitlines()[0]}): write it again with "
                "`synco-hub embed`"
            ) from None
        facts = [json.loads((table.schema.metadata or {}).get(FACTS, b"null")) for table in tables]
        if None in facts or not {"file_name", "embedding"} <= set(tables[0].column_names):
            raise ValueError(
                f"{str(place)!r} holds no embeddings of `synco-hub embed`, or not the names of their images: write it "
                "with that command"
            )
        if any(each["model"] != facts[0]["model"] for each in facts):
            raise ValueError(f"{str(place)!r} has files of different models: give a folder of one")
        table = pa.concat_tables(tables)
        labels = table.column("label").to_numpy().astype(np.int64) if "label" in table.column_names else None
        feature = Features.from_arrow_schema(table.schema).get("label")
        return cls(
            table.column("file_name").to_pylist(),
            table.column("split").to_pylist(),
            labels,
            list(feature.names) if isinstance(feature, ClassLabel) else [],
            _to_array(table).astype(np.float32),
            facts[0],
        )


def _to_array(table: pa.Table) -> npt.NDArray[Any]:
    """Vectors of all rows, in the type that they are stored in."""
    values, shape = table.column("embedding").combine_chunks(), [len(table)]
    while pa.types.is_fixed_size_list(values.type):
        shape.append(values.type.list_size)
        values = values.flatten()
    array: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array


def join_parts(files: Sequence[Path], facts: Mapping[str, Any], folder: Path, output: Path) -> None:
    """Put the parts in a folder together under the name that was asked for, in one step, and remove them."""
    schema = parquet.read_schema(files[0])
    schema = schema.with_metadata({**schema.metadata, FACTS: json.dumps(facts, ensure_ascii=False).encode()})
    if output.suffix == TABLE_SUFFIX:
        with atomic_write(output) as unfinished, parquet.ParquetWriter(unfinished, schema) as writer:
            for file in files:
                writer.write_table(parquet.read_table(file).replace_schema_metadata(schema.metadata))
    elif output.suffix == ARRAY_SUFFIX:
        _write_array(files, output)
    else:
        ready = folder / "whole"
        shutil.rmtree(ready, ignore_errors=True)
        ready.mkdir()
        for number, file in enumerate(files):
            table = parquet.read_table(file).replace_schema_metadata(schema.metadata)
            parquet.write_table(table, ready / f"embeddings-{number:05d}-of-{len(files):05d}{TABLE_SUFFIX}")
        if output.is_dir():
            output.rmdir()
        ready.rename(output)
    shutil.rmtree(folder)


def _write_array(files: Sequence[Path], output: Path) -> None:
    """All vectors as one numpy array; names, splits and labels, row by row, in a `.csv` beside it."""
    rows = [parquet.read_metadata(file).num_rows for file in files]
    start = 0
    with atomic_write(output) as unfinished, atomic_write(output.with_suffix(".csv")) as names:
        array: Any = None
        with names.open("w", newline="", encoding="utf-8") as stream:
            lines = csv.writer(stream)
            for file, count in zip(files, rows, strict=True):
                table = parquet.read_table(file)
                known = [name for name in table.column_names if name != "embedding"]
                values = _to_array(table)
                if array is None:
                    array = open_memmap(unfinished, "w+", values.dtype, (sum(rows), *values.shape[1:]))
                    lines.writerow(known)
                array[start : start + count] = values
                lines.writerows(zip(*(table.column(name).to_pylist() for name in known), strict=True))
                start += count
        if array is not None:
            array.flush()


def format_end(output: Path) -> str:
    """What to say of a file that is written."""
    if output.suffix == ARRAY_SUFFIX:
        shape = np.load(output, mmap_mode="r").shape
        return f"wrote {output} {shape} and {output.with_suffix('.csv')}"
    files = sorted(output.glob(f"*{TABLE_SUFFIX}")) if output.is_dir() else [output]
    rows = sum(parquet.read_metadata(file).num_rows for file in files)
    return f"wrote {output}: {rows:,} images, {', '.join(parquet.read_schema(files[0]).names)}"
