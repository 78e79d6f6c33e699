"""Which table, column and cell, for tables by position and streams alike."""

from pathlib import Path
from typing import Any

import pytest

from synco_hub.data.table_source import (
    TableSource,
    call_datasets,
    find_image_column,
    import_datasets,
    keep_images_encoded,
    label_column_of,
    open_split,
    split_names,
)

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for split, count in (("train", 5), ("validation", 2)):
        datasets.Dataset.from_dict({"n": list(range(count))}).to_parquet(tmp_path / "table" / f"{split}-0.parquet")
    return tmp_path / "table"


def test_splits_and_rows_by_both_ways_of_reading(folder: Path) -> None:
    source = TableSource(str(folder))
    assert split_names(source) == ["train", "validation"]
    stored, streamed = (open_split(source, "train", streaming) for streaming in (False, True))
    assert [row["n"] for row in streamed] == stored["n"][:] == [0, 1, 2, 3, 4]
    assert not isinstance(streamed, datasets.Dataset)


def test_every_error_of_the_library_becomes_one_line(folder: Path) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no route to host\nand a long story")

    with pytest.raises(
        ValueError, match=r"a/b: the datasets library cannot load it \(RuntimeError: no route to host\)"
    ):
        call_datasets(TableSource("a/b"), fails)
    with pytest.raises(ValueError, match=r"cannot load it .*dev"):
        open_split(TableSource(str(folder)), "dev")


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("synco_hub.data.table_source.importlib.import_module", missing)
    with pytest.raises(ImportError, match=r"someone/pictures: .*pip install datasets"):
        import_datasets("someone/pictures")


IMAGE = datasets.Image()
CLASSES = datasets.ClassLabel(names=["cat", "dog"])
NUMBER = datasets.Value("int64")
FEW = TableSource("a/b")


def table(**features: Any) -> Any:
    columns: dict[str, list[Any]] = {name: [None] for name in features}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.mark.parametrize(
    ("features", "image", "label"),
    [
        ({"picture": IMAGE, "kind": CLASSES}, "picture", "kind"),
        ({"image": IMAGE}, "image", None),
        ({"image": IMAGE, "label": NUMBER, "fine": CLASSES}, "image", "label"),
        ({"image": IMAGE, "labels": NUMBER}, "image", "labels"),
        ({"jpg": IMAGE, "cls": NUMBER}, "jpg", "cls"),
    ],
)
def test_columns_are_found_by_type_and_usual_name(features: Any, image: str, label: str | None) -> None:
    assert find_image_column(table(**features), FEW) == image
    assert label_column_of(table(**features), FEW) == label
    streamed = table(**features).to_iterable_dataset()
    assert (find_image_column(streamed, FEW), label_column_of(streamed, FEW)) == (image, label)


def test_what_is_named_wins_and_what_is_ambiguous_is_refused() -> None:
    both = table(a=IMAGE, b=IMAGE, fine=CLASSES, coarse=CLASSES)
    named = TableSource("a/b", image_column="b", label_column="coarse")
    assert (find_image_column(both, named), label_column_of(both, named)) == ("b", "coarse")
    with pytest.raises(ValueError, match=r"2 columns of images among a, b, fine, coarse.*--image-column"):
        find_image_column(both, FEW)
    with pytest.raises(ValueError, match=r"2 columns of classes \(fine, coarse\).*--label-column"):
        label_column_of(both, FEW)
    with pytest.raises(ValueError, match=r"no column 'c'; give --image-column one of a, b"):
        find_image_column(both, TableSource("a/b", image_column="c"))


def test_names_of_the_catalog_may_be_missing_in_another_copy() -> None:
    copy = TableSource("a/b", usual_image_column="img", usual_label_column="fine_label")
    assert find_image_column(table(image=IMAGE, label=CLASSES), copy) == "image"
    assert label_column_of(table(image=IMAGE, label=CLASSES), copy) == "label"


def test_images_stay_encoded_and_numbers_are_no_images() -> None:
    encoded = keep_images_encoded(table(image=IMAGE), "image", FEW)
    assert encoded.features["image"].decode is False
    assert isinstance(
        keep_images_encoded(table(jpg=datasets.Value("binary")), "jpg", FEW).features["jpg"],
        datasets.Image,
    )
    with pytest.raises(ValueError, match="column 'image' holds int64, not images"):
        keep_images_encoded(table(image=NUMBER), "image", FEW)
