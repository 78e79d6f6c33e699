"""One list of classes over all splits of a table, compared with a slow loop over the files themselves."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from synco_hub.data import load_dataset
from synco_hub.data.image_dataset import UNLABELED
from synco_hub.data.row_classes import encode_multi_hot, read_row_classes
from synco_hub.data.table_source import TableSource
from synco_hub.data.tables import load_table

datasets = pytest.importorskip("datasets")

PIXEL = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
    b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def write(root: Path, **splits: list[Any]) -> str:
    root.mkdir(exist_ok=True)
    for split, labels in splits.items():
        pq.write_table(pa.table({"image": [PIXEL] * len(labels), "label": labels}), root / f"{split}.parquet")
    return str(root)


def named(images: Any) -> list[str | None]:
    """The stored value of each row, by way of its class."""
    return [None if label == UNLABELED else images.class_names[label] for label in images.labels.tolist()]


def slow_order(splits: dict[str, list[Any]]) -> list[str]:
    found: list[Any] = []
    for labels in splits.values():
        for label in labels:
            if label is not None and label not in found:
                found.append(label)
    return [str(label) for label in sorted(found)]


@pytest.mark.parametrize(
    "splits",
    [
        {"train": ["owl", "cat", "dog", "ant"], "test": ["owl", "dog"]},
        {"train": ["cat", None, "dog"], "test": ["emu", "cat"]},
        {"train": ["10", "9", "1"], "test": ["9"]},
        {"train": [0, 1, 2, 3], "test": [1, 0], "validation": [4]},
        {"train": [1, 2, 3], "test": [2]},
        {"train": [100_000 + 1000 * number for number in range(10)], "test": [103_000]},
        {"train": [20_000_000, 20_000_003], "test": [20_000_001]},
        {"train": [-7, -1, 4], "test": [4, -1]},
        {"train": [-1, 1, 1], "test": [1, -1]},
        {"train": [3, 5], "test": [5]},
    ],
)
def test_classes_are_numbered_over_all_splits(splits: dict[str, list[Any]], tmp_path: Path) -> None:
    root, order = write(tmp_path / "t", **splits), slow_order(splits)
    for split, labels in splits.items():
        images = load_dataset(root, split)
        assert images.class_names == order
        assert images.description.num_classes == len(order)
        assert images.labels.tolist() == [UNLABELED if each is None else order.index(str(each)) for each in labels]


def test_minus_one_beside_other_ids_is_no_class(tmp_path: Path) -> None:
    root = write(tmp_path / "t", train=[0, 2, -1], test=[-1, -1], validation=[1, 0])
    train, test = (load_dataset(root, split) for split in ("train", "test"))
    assert (train.class_names, train.labels.tolist()) == (["0", "1", "2"], [0, 2, UNLABELED])
    # Its labels are hidden, so that the next split with labels is the test.
    assert test.labels.tolist() == [1, 0]


def test_a_fingerprint_says_nothing_of_other_splits_and_counts_from_0_as_it_did(tmp_path: Path) -> None:
    alone = load_table(TableSource(write(tmp_path / "t", train=[1, 3])))
    beside = write(tmp_path / "t", test=[2, 9])
    assert load_table(TableSource(beside)).description.fingerprint == alone.description.fingerprint
    table = datasets.Dataset.from_dict({"label": [1, 3]})
    spelled, numbers = read_row_classes(table, "label", TableSource("a/b")).identity
    assert (list(spelled), numbers.tolist()) == (["0", "1", "2", "3"], [1, 3])


def test_a_sample_of_a_table_keeps_numbers_that_are_nearly_all_there() -> None:
    table = datasets.Dataset.from_dict({"label": [1, 3, 9, 4]})
    sample = read_row_classes(table, "label", TableSource("a/b", max_images=4))
    assert (sample.class_names, sample.labels.tolist()) == ([str(number) for number in range(10)], [1, 3, 9, 4])


def test_lists_of_ids_with_gaps_are_names(tmp_path: Path) -> None:
    splits = {"train": [[1, 90], [7]], "test": [[13], []]}
    root = write(tmp_path / "t", **splits)
    for split, rows in splits.items():
        images = load_table(TableSource(root), split)
        assert images.class_names == ["1", "7", "13", "90"]
        assert images.multi_hot is not None
        assert images.multi_hot.tolist() == [[float(number in row) for number in (1, 7, 13, 90)] for row in rows]
    words = write(tmp_path / "w", train=[["a", "c"], ["b"]], test=[["d"]])
    assert load_table(TableSource(words), "test").class_names == ["a", "b", "c", "d"]
    assert encode_multi_hot([[1], [3]], [], None, "x", gaps=True)[1] == ["0", "1", "2", "3"]


def write_named(root: Path, file: str, numbers: list[int], names: list[str]) -> None:
    root.mkdir(exist_ok=True)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    cells = [{"bytes": PIXEL, "path": None}] * len(numbers)
    datasets.Dataset.from_dict({"image": cells, "label": numbers}, features=features).to_parquet(root / file)


def test_files_with_lists_of_their_own_mean_the_same_classes(tmp_path: Path) -> None:
    root = tmp_path / "t"
    write_named(root, "train-00000-of-00002.parquet", [0, 1], ["cat", "dog"])
    write_named(root, "train-00001-of-00002.parquet", [1, 0, 2], ["bee", "dog", "owl"])
    write_named(root, "test-00000-of-00001.parquet", [0, 1, -1], ["dog", "owl"])
    train, test = (load_table(TableSource(str(root)), split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ["bee", "cat", "dog", "owl"]
    assert named(train) == ["cat", "dog", "dog", "bee", "owl"]
    assert named(test) == ["dog", "owl", None]
    both = load_table(TableSource(str(root)), "test+train")
    assert named(both) == named(test) + named(train)
    sample = load_dataset(str(root), "train", max_images=4)
    assert set(named(sample)) <= {"cat", "dog", "bee", "owl"}
    with pytest.raises(ValueError, match="splits can be named as a whole only"):
        load_table(TableSource(str(root)), "train[:2]")


def test_opening_many_rows_of_high_ids_is_small() -> None:
    ids = 20_000_000 + np.arange(300)
    classes = read_row_classes(datasets.Dataset.from_dict({"label": ids.tolist()}), "label", TableSource("a/b"))
    assert classes.labels.tolist() == list(range(300))
    assert len(list(classes.identity[0])) == 300
