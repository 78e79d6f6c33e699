"""Tables by position: their images, names and classes, all rows of them or a sample."""

import io
import itertools
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from synco_hub.data import tables
from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.row_classes import encode_multi_hot, read_row_classes, without_difficult
from synco_hub.data.table_source import TableSource
from synco_hub.data.tables import (
    READ_PER_KEPT,
    load_table,
    sample_rows,
)

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not below the data: the library names its folders after the test, which reads as a split of that name.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def png(value: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (5, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def cells(count: int) -> list[dict[str, Any]]:
    return [{"bytes": png(number, "L"), "path": f"{number}.png"} for number in range(count)]


def write_split(root: Path, split: str, columns: dict[str, list[Any]], features: dict[str, Any]) -> None:
    (root / "data").mkdir(parents=True, exist_ok=True)
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(root / "data" / f"{split}-00000-of-00001.parquet")


IMAGE = datasets.Image()
CLASSES = datasets.ClassLabel(names=["cat", "dog", "owl"])


def test_class_labels_images_and_names(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"image": cells(4), "label": [2, 0, 1, 1]}, {"image": IMAGE, "label": CLASSES})
    write_split(tmp_path, "test", {"image": cells(1), "label": [1]}, {"image": IMAGE, "label": CLASSES})
    dataset = load_table(TableSource(str(tmp_path)))
    assert dataset.labels.tolist() == [2, 0, 1, 1]
    assert dataset.class_names == ["cat", "dog", "owl"]
    image, label = dataset[3]
    assert (image.mode, image.size, image.getpixel((0, 0)), label) == ("RGB", (5, 4), (3, 3, 3), 1)
    assert dataset.name(3) == "3.png (row 3)"
    test = load_table(TableSource(str(tmp_path)), "test")
    assert len(test) == 1
    assert "split test" in test.description.split_rule
    both = load_table(TableSource(str(tmp_path)), "train+test")
    assert both.labels.tolist() == [2, 0, 1, 1, 1]
    prints = {each.description.fingerprint for each in (dataset, test, both)}
    assert len(prints) == 3


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path: Path) -> None:
    features = {"image": IMAGE, "label": CLASSES}
    write_split(tmp_path, "train", {"image": cells(2), "label": [0, 1]}, features)
    write_split(tmp_path, "test", {"image": cells(2), "label": [-1, -1]}, features)
    write_split(tmp_path, "validation", {"image": cells(3), "label": [0, 1, 2]}, features)
    test = load_table(TableSource(str(tmp_path)), "test")
    assert test.labels.tolist() == [0, 1, 2]
    assert "validation" in test.description.split_rule


def test_integers_and_strings_as_classes(tmp_path: Path) -> None:
    columns = {"img": cells(3), "cls": [4, 0, 4], "wnid": ["n02", "n01", "n02"]}
    features = {"img": IMAGE, "cls": datasets.Value("int32"), "wnid": datasets.Value("string")}
    write_split(tmp_path, "train", columns, features)
    numbers = load_table(TableSource(str(tmp_path)))
    assert numbers.labels.tolist() == [1, 0, 1]
    assert numbers.class_names == ["0", "4"]
    strings = load_table(TableSource(str(tmp_path), label_column="wnid"))
    assert strings.labels.tolist() == [1, 0, 1]
    assert strings.class_names == ["n01", "n02"]


def test_without_labels(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"picture": cells(2)}, {"picture": IMAGE})
    dataset = load_table(TableSource(str(tmp_path)))
    assert dataset.labels.tolist() == [-1, -1]
    assert not dataset.is_labeled


def test_choosing_between_columns(tmp_path: Path) -> None:
    columns = {"a": cells(2), "b": cells(2), "fine": [0, 1], "coarse": [1, 0]}
    write_split(tmp_path, "train", columns, {"a": IMAGE, "b": IMAGE, "fine": CLASSES, "coarse": CLASSES})
    with pytest.raises(ValueError, match=r"2 columns of images .*--image-column"):
        load_table(TableSource(str(tmp_path)))
    with pytest.raises(ValueError, match=r"2 columns of classes \(fine, coarse\).*--label-column"):
        load_table(TableSource(str(tmp_path), image_column="a"))
    with pytest.raises(ValueError, match=r"no column 'c'.*a, b, fine, coarse"):
        load_table(TableSource(str(tmp_path), image_column="c"))
    dataset = load_table(TableSource(str(tmp_path), image_column="b", label_column="coarse"))
    assert dataset.labels.tolist() == [1, 0]


def test_damaged_cells_are_named(tmp_path: Path) -> None:
    bad: list[Any] = [{"bytes": png(1)[:30], "path": "cut.png"}, {"bytes": b"", "path": None}, None]
    write_split(tmp_path, "train", {"image": bad, "label": [0, 0, 0]}, {"image": IMAGE, "label": CLASSES})
    dataset = load_table(TableSource(str(tmp_path)))
    for index, name in enumerate(["cut.png \\(row 0\\)", "row 1", "row 2"]):
        with pytest.raises(UnreadableImageError, match=name):
            dataset[index]


def test_webdataset_archives(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-000.tar", "w") as archive:
        for number in range(3):
            for name, data in ((f"{number:03d}.png", png(number)), (f"{number:03d}.cls", str(number % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    dataset = load_table(TableSource(str(tmp_path)))
    assert dataset.labels.tolist() == [0, 1, 0]
    assert np.asarray(dataset[2].image)[0, 0].tolist() == [2, 0, 0]


def test_unusable_labels(tmp_path: Path) -> None:
    features = {"image": IMAGE, "label": datasets.Value("float32")}
    write_split(tmp_path, "train", {"image": cells(1), "label": [0.5]}, features)
    with pytest.raises(ValueError, match=r"'label' holds float.*--label-column"):
        load_table(TableSource(str(tmp_path)))


def test_unknown_splits_and_data_sets(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"image": cells(1), "label": [0]}, {"image": IMAGE, "label": CLASSES})
    with pytest.raises(ValueError, match=r"no test split among train"):
        load_table(TableSource(str(tmp_path)), "test")
    with pytest.raises(ValueError, match=r"cannot load it .*dev"):
        load_table(TableSource(str(tmp_path)), "dev")
    with pytest.raises(ValueError, match=r"someone/nothing: the datasets library cannot load it"):
        load_table(TableSource("someone/nothing"))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("synco_hub.data.tables.importlib.import_module", missing)
    with pytest.raises(ImportError, match="pip install datasets"):
        load_table(TableSource("someone/something"))


def test_several_classes_an_image(tmp_path: Path) -> None:
    lists = [[2, 0], [], [1]]
    columns = {"image": cells(3), "labels": lists, "difficult": [[1], [0, 2], None]}
    several = datasets.Sequence(CLASSES)
    write_split(tmp_path, "train", columns, {"image": IMAGE, "labels": several, "difficult": several})
    dataset = load_table(TableSource(str(tmp_path)))
    assert dataset.multi_hot is not None
    assert dataset.multi_hot.tolist() == [[1, -1, 1], [-1, 0, -1], [0, 1, 0]]
    assert (dataset.class_names, dataset.labels.tolist()) == (["cat", "dog", "owl"], [-1, -1, -1])


def test_stored_bytes_and_names_are_handed_out(tmp_path: Path) -> None:
    stored: list[Any] = [*cells(2), {"bytes": png(7), "path": None}]
    write_split(tmp_path, "train", {"image": stored, "label": [0] * 3}, {"image": IMAGE, "label": CLASSES})
    dataset = load_table(TableSource(str(tmp_path)))
    assert [dataset.encoded(index) for index in range(3)] == [cell["bytes"] for cell in stored]
    assert dataset.file_names() == ["0.png", "1.png", "row 2"]
    assert [dataset.name(index) for index in range(3)] == ["0.png (row 0)", "1.png (row 1)", "row 2"]


@pytest.mark.parametrize("kind", ["int64", "float32", "bool"])
def test_a_column_of_something_else_is_no_column_of_images(kind: str, tmp_path: Path) -> None:
    write_split(
        tmp_path, "train", {"image": [1, 0], "label": [0, 1]}, {"image": datasets.Value(kind), "label": CLASSES}
    )
    with pytest.raises(ValueError, match=f"column 'image' holds {kind}, not images"):
        load_table(TableSource(str(tmp_path), image_column="image"))


def test_bytes_without_the_librarys_mark(tmp_path: Path) -> None:
    write_split(
        tmp_path, "train", {"jpg": [png(3), b"cut"], "cls": [0, 1]}, {"jpg": datasets.Value("binary"), "cls": CLASSES}
    )
    dataset = load_table(TableSource(str(tmp_path), image_column="jpg"))
    assert dataset.load_image(0).size == (5, 4)
    with pytest.raises(UnreadableImageError, match="row 1"):
        dataset.load_image(1)


def test_columns_of_the_catalog_are_optional_for_another_copy(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"image": cells(2), "label": [0, 1]}, {"image": IMAGE, "label": CLASSES})
    source = TableSource(str(tmp_path), usual_image_column="img", usual_label_column="fine_label")
    assert load_table(source).labels.tolist() == [0, 1]


def read(values: list[Any], feature: Any, **more: list[Any]) -> Any:
    features = {
        "label": feature,
        **dict.fromkeys(more, datasets.Sequence(CLASSES)),
    }
    table = datasets.Dataset.from_dict({"label": values, **more}, features=datasets.Features(features))
    return read_row_classes(table, "label", TableSource("a/b"))


@pytest.mark.parametrize(
    ("values", "feature", "labels", "names", "named"),
    [
        ([2, 0, None], CLASSES, [2, 0, -1], ["cat", "dog", "owl"], True),
        ([4, 0, 4], datasets.Value("int32"), [1, 0, 1], ["0", "4"], False),
        (["n02", None, "n01"], datasets.Value("string"), [1, -1, 0], ["n01", "n02"], False),
    ],
)
def test_one_class_a_row(values: Any, feature: Any, labels: Any, names: Any, named: bool) -> None:
    classes = read(values, feature)
    assert (classes.labels.tolist(), classes.class_names) == (labels, names)
    assert (classes.multi_hot, classes.named_by_table) == (None, named)


def test_several_classes_a_row_with_difficult_ones() -> None:
    classes = read(
        [[2, 0], [], [1]],
        datasets.Sequence(CLASSES),
        difficult=[[1], [0, 2], None],
    )
    assert classes.multi_hot.tolist() == [[1, -1, 1], [-1, 0, -1], [0, 1, 0]]
    assert (classes.labels.tolist(), classes.class_names) == ([-1, -1, -1], ["cat", "dog", "owl"])


def test_rows_without_a_column_of_classes_and_columns_of_something_else() -> None:
    table = datasets.Dataset.from_dict({"n": [1.5, 2.5]})
    classes = read_row_classes(table, None, TableSource("a/b"))
    assert (classes.labels.tolist(), classes.class_names) == ([-1, -1], [])
    with pytest.raises(ValueError, match=r"'n' holds float, but a class is an integer or a string.*--label-column"):
        read_row_classes(table, "n", TableSource("a/b"))


def test_rows_indices_and_names_say_the_same():
    rng = np.random.default_rng(4)
    rows = (rng.random((30, 6)) < 0.4).astype(np.float32)
    names = [f"class {number}" for number in range(6)]
    indices = [np.flatnonzero(row).tolist() for row in rows]
    spellings = [
        (rows.astype(int).tolist(), []),
        (rows.astype(int).tolist(), names),
        (indices, names),
        ([[names[index] for index in each] for each in indices], names),
    ]
    for values, known in spellings:
        found, found_names = encode_multi_hot(values, known, None, "x")
        assert (found == rows).all()
        assert found_names == (known or [str(number) for number in range(6)])
    assert (encode_multi_hot(indices, [], 6, "x")[0] == rows).all()
    # Without known classes the names are those that occur, sorted.
    found, found_names = encode_multi_hot([[names[index] for index in each] for each in indices], [], None, "x")
    assert (found == rows).all()
    assert found_names == names


def test_lists_of_few_indices_are_no_rows():
    found, _ = encode_multi_hot([[0, 1], [1, 0]], [], 20, "x")
    assert found.sum(axis=0).tolist() == [2, 2, *[0] * 18]
    assert encode_multi_hot([[1], [0], None], [], None, "x")[0].tolist() == [[0, 1], [1, 0], [0, 0]]


def test_what_is_neither():
    with pytest.raises(ValueError, match="hold float"):
        encode_multi_hot([[0.5]], [], None, "x")
    with pytest.raises(ValueError, match="classes 0 to 7, where there are 3"):
        encode_multi_hot([[0, 7]], ["a", "b", "c"], None, "x")
    with pytest.raises(ValueError, match="'z' is not among its 2 classes"):
        encode_multi_hot([["a", "z"]], ["a", "b"], None, "x")


def test_difficult_classes_do_not_count_unless_they_are_there_too():
    rows = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.float32)
    assert without_difficult(rows, [[0, 2], None]).tolist() == [[1, 0, -1], [0, 1, 0]]
    assert rows.min() == 0


EIGHT = datasets.ClassLabel(names=[f"class{number}" for number in range(8)])
FEATURES = datasets.Features(
    {
        "id": datasets.Value("int64"),
        "image": datasets.Image(),
        "label": EIGHT,
    }
)


def numbered_png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (value % 256, value // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, split: str, files: list[int], group: int, classes: int = 8) -> None:
    """Rows sorted by class over files of the given lengths, in row groups."""
    root.mkdir(exist_ok=True)
    total, start = sum(files), 0
    for number, length in enumerate(files):
        ids = range(start, start + length)
        cells = [{"bytes": numbered_png(index), "path": None} for index in ids]
        columns = {"id": list(ids), "image": cells, "label": [index * classes // total for index in ids]}
        table = datasets.Dataset.from_dict(columns, features=FEATURES).data.table
        pq.write_table(table, root / f"{split}-{number:05d}.parquet", row_group_size=group)
        start += length


def identities(table: Any, column: str = "image") -> list[int]:
    """Which rows they are, by their pixels."""
    images = [Image.open(io.BytesIO(row[column]["bytes"])).getpixel((0, 0)) for row in table]
    return [red + 256 * green for red, green, _ in images]


def test_rows_of_a_sorted_table_are_of_all_classes_in_stored_order_and_always_the_same(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [150, 250], group=10)
    source = TableSource(str(tmp_path / "t"))
    sample = sample_rows(source, "train", 40)
    ids = identities(sample)
    assert len(ids) == len(set(ids)) == 40
    assert ids == sorted(ids)
    assert [row["label"] for row in sample] == [index * 8 // 400 for index in ids]
    # One row of each of 40 groups.
    assert {index // 10 for index in ids} == set(range(40))
    assert identities(sample_rows(source, "train", 40)) == ids
    assert set(sample.features) == {"image", "label"}


def test_one_large_group_is_drawn_from_and_not_cut_off_at_its_beginning(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [200], group=1000)
    labels = [row["label"] for row in sample_rows(TableSource(str(tmp_path / "t")), "train", 60)]
    counts = [labels.count(number) for number in range(8)]
    assert sum(counts) == 60
    assert min(counts) >= 2


def test_all_rows_where_there_are_no_more(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [7, 1, 4], group=3)
    source = TableSource(str(tmp_path / "t"))
    # Groups of 3, 3, 1, 1, 3 and 1 rows.
    assert identities(sample_rows(source, "train", 18)) == list(range(12))
    # What short groups lack, later ones make up for: 2, 2, 1, 1 and then 2 of two groups, where one has but 1.
    assert len(sample_rows(source, "train", 10)) == 9


def test_several_stored_splits_and_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "t", "train", [20] * 6, group=4)
    write(tmp_path / "t", "validation", [20] * 6, group=4)
    monkeypatch.setattr(tables, "PARTS_AT_MOST", 4)
    monkeypatch.setattr(tables, "_ROWS_A_BLOCK", 5)
    ids = identities(sample_rows(TableSource(str(tmp_path / "t")), "train+validation", 16))
    # Files 0 and 3 of both splits, four rows each of the first twenty.
    assert [len(list(rows)) for _, rows in itertools.groupby(ids, key=lambda index: index // 20)] == [4] * 4
    assert {index // 20 for index in ids} == {0, 3}


def test_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for number in range(300):
            for name, data in (
                (f"{number:03d}.png", numbered_png(number)),
                (f"{number:03d}.cls", str(number % 3).encode()),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    read = []
    islice = itertools.islice
    monkeypatch.setattr(tables, "islice", lambda rows, stop: (read.append(1) or row for row in islice(rows, stop)))
    sample = sample_rows(TableSource(str(tmp_path)), "train", 20)
    assert len(read) == 20 * READ_PER_KEPT
    assert [row["cls"] for row in sample] == [index % 3 for index in identities(sample, "png")]


def test_as_a_data_set_it_says_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [60], group=5)
    write(tmp_path / "t", "validation", [30], group=5)
    images = load_table(TableSource(str(tmp_path / "t"), max_images=10), "test")
    assert (len(images), images.num_classes, images.names_from_rows) == (10, 8, False)
    assert images.description.split_rule == "split validation as published; 10 rows spread over it"
    assert images.description.num_images == 10
    whole = load_table(TableSource(str(tmp_path / "t")), "test")
    assert images.description.fingerprint != whole.description.fingerprint
    assert images.load_image(0).size == (3, 2)


def test_what_cannot_be_sampled_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t", "train", [4], group=2)
    with pytest.raises(ValueError, match="max_images=0"):
        sample_rows(TableSource(str(tmp_path / "t")), "train", 0)
    with pytest.raises(ValueError, match=r"cannot load it .*dev"):
        sample_rows(TableSource(str(tmp_path / "t")), "dev", 3)
    with pytest.raises(ValueError, match="no column 'x'"):
        sample_rows(TableSource(str(tmp_path / "t"), label_column="x"), "train", 3)
    (tmp_path / "t" / "train-00000.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match="cannot load it"):
        sample_rows(TableSource(str(tmp_path / "t")), "train", 3)
