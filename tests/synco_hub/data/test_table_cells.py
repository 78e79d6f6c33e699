"""What a cell of a table holds, and how it is named."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.table_cells import list_cell_paths, name_cell, read_cell_bytes


def test_bytes_are_handed_out_from_every_kind_of_cell(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"pixels")
    cells: list[Any] = [b"pixels", {"bytes": b"pixels", "path": "x.png"}, {"bytes": None, "path": str(file)}]
    cells.append(str(file))
    assert [read_cell_bytes(cell, "a") for cell in cells] == [b"pixels"] * 4
    assert [name_cell(cell, 7) for cell in cells[:3]] == ["row 7", "x.png (row 7)", f"{file} (row 7)"]


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (None, "is empty"),
        (3, "holds int"),
        ({"bytes": b"", "path": None}, "is empty"),
        ({"path": "/no/x"}, "No such file"),
    ],
)
def test_a_cell_without_an_image_is_named(cell: Any, reason: str) -> None:
    with pytest.raises(UnreadableImageError, match=f"row 4.*{reason}"):
        read_cell_bytes(cell, "row 4")


def test_names_of_a_column_are_read_without_its_bytes() -> None:
    chunk = pa.array([{"bytes": b"1", "path": "a.png"}, {"bytes": b"2", "path": None}])
    assert list_cell_paths(chunk) == ["a.png", None]
    assert list_cell_paths(pa.array([b"1", b"2"])) == []
