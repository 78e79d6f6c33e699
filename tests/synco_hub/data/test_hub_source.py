from pathlib import Path
from typing import Any

import pytest

from synco_hub.data.hub_source import HubSource, called, datasets_library, opened_split, split_names

datasets = pytest.importorskip("datasets")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    for split, count in (("train", 5), ("validation", 2)):
        datasets.Dataset.from_dict({"n": list(range(count))}).to_parquet(tmp_path / "table" / f"{split}-0.parquet")
    return tmp_path / "table"


def test_splits_and_rows_by_both_ways_of_reading(folder: Path) -> None:
    source = HubSource(str(folder))
    assert split_names(source) == ["train", "validation"]
    stored, streamed = (opened_split(source, "train", streaming) for streaming in (False, True))
    assert [row["n"] for row in streamed] == stored["n"][:] == [0, 1, 2, 3, 4]
    assert not isinstance(streamed, datasets.Dataset)


def test_every_error_of_the_library_becomes_one_line(folder: Path) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no route to host\nand a long story")

    with pytest.raises(
        ValueError, match=r"a/b: the datasets library cannot load it \(RuntimeError: no route to host\)"
    ):
        called(HubSource("a/b"), fails)
    with pytest.raises(ValueError, match=r"cannot load it .*dev"):
        opened_split(HubSource(str(folder)), "dev")


def test_without_the_library_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("synco_hub.data.hub_source.importlib.import_module", missing)
    with pytest.raises(ImportError, match=r"someone/pictures: .*pip install datasets"):
        datasets_library("someone/pictures")
