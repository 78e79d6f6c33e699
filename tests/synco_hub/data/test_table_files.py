"""What files say of themselves, compared with what was written into them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synco_hub.data.table_files import (
    count_rows,
    count_samples,
    is_unlabeled_file,
    join_lists,
    list_class_names,
    list_table_files,
    read_features,
    read_parquet_from,
    with_classes,
)

datasets = pytest.importorskip("datasets")

CLASSES = datasets.ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize("start", [0, 1, 4, 5, 13, 22, 23, 40])
def test_cells_of_a_parquet_file_from_any_row_on(start: int, tmp_path: Path) -> None:
    cells = [f"{row}".encode() for row in range(23)]
    pq.write_table(pa.table({"image": cells}), tmp_path / "t.parquet", row_group_size=5)
    assert list(read_parquet_from(str(tmp_path / "t.parquet"), "image", start)) == cells[start:]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_columns_and_rows_of_a_file(kind: str, tmp_path: Path) -> None:
    features = datasets.Features({"label": CLASSES, "many": datasets.Sequence(CLASSES)})
    table = datasets.Dataset.from_dict({"label": [0, 1, 1], "many": [[0], [], [1]]}, features=features)
    if kind == "parquet":
        file = tmp_path / "t.parquet"
        table.to_parquet(file)
    else:
        table.save_to_disk(tmp_path / "t")
        (file,) = (tmp_path / "t").glob("*.arrow")
    found = read_features(str(file))
    assert [list_class_names(found[name]) for name in ("label", "many")] == [["cat", "dog"]] * 2
    assert count_rows(str(file)) == 3
    assert list_class_names(with_classes(found["many"], ["a", "b", "c"])) == ["a", "b", "c"]


def test_what_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 torn")
    assert read_features(str(tmp_path / "x.parquet")) is None
    assert read_features(str(tmp_path / "x.csv")) is None
    assert count_samples("https://somewhere/x.parquet") is None
    with pytest.raises(ValueError, match="a damaged shard"):
        count_samples(str(tmp_path / "x.parquet"))


def test_lists_of_classes_become_one() -> None:
    assert join_lists([("a", "c"), ("a", "b", "c")]) == ["a", "b", "c"]
    assert join_lists([("b", "c"), ("a", "c")]) == ["a", "b", "c"]
    assert join_lists([("c", "b"), ("a", "c")]) == ["c", "b", "a"]
    assert join_lists([("b", "a"), ("a", "b")]) == ["b", "a"]


def test_which_files_are_tables_and_which_of_them_are_unlabeled(tmp_path: Path) -> None:
    names = ["train-0.parquet", "deep/test.arrow", "a.tar", ".hidden/x.parquet", "metadata.parquet", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list_table_files(tmp_path) == {name: str(tmp_path / name) for name in sorted(names[:3])}
    (tmp_path / "README.md").write_text("---\nconfigs:\n- data_files: train-0.parquet\n---\n")
    assert list_table_files(tmp_path) == {}
    unlabeled = ["unlabeled.parquet", "Unlabelled-00001-of-00002.arrow", "data/unsupervised/3.parquet", "extra_0.tar"]
    assert all(map(is_unlabeled_file, unlabeled))
    assert not any(map(is_unlabeled_file, ["train.parquet", "unlabeledness.parquet", "data/0.parquet"]))
