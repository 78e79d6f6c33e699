import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.hub_dataset import load_hub_dataset
from synco_hub.data.hub_source import HubSource

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
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
    dataset = load_hub_dataset(HubSource(str(tmp_path)))
    assert dataset.labels.tolist() == [2, 0, 1, 1]
    assert dataset.class_names == ["cat", "dog", "owl"]
    image, label = dataset[3]
    assert (image.mode, image.size, image.getpixel((0, 0)), label) == ("RGB", (5, 4), (3, 3, 3), 1)
    assert dataset.name(3) == "3.png (row 3)"
    test = load_hub_dataset(HubSource(str(tmp_path)), "test")
    assert len(test) == 1
    assert "split test" in test.description.split_rule
    both = load_hub_dataset(HubSource(str(tmp_path)), "train+test")
    assert both.labels.tolist() == [2, 0, 1, 1, 1]
    prints = {each.description.fingerprint for each in (dataset, test, both)}
    assert len(prints) == 3


def test_a_test_split_without_labels_gives_way_to_validation(tmp_path: Path) -> None:
    features = {"image": IMAGE, "label": CLASSES}
    write_split(tmp_path, "train", {"image": cells(2), "label": [0, 1]}, features)
    write_split(tmp_path, "test", {"image": cells(2), "label": [-1, -1]}, features)
    write_split(tmp_path, "validation", {"image": cells(3), "label": [0, 1, 2]}, features)
    test = load_hub_dataset(HubSource(str(tmp_path)), "test")
    assert test.labels.tolist() == [0, 1, 2]
    assert "validation" in test.description.split_rule


def test_integers_and_strings_as_classes(tmp_path: Path) -> None:
    columns = {"img": cells(3), "cls": [4, 0, 4], "wnid": ["n02", "n01", "n02"]}
    features = {"img": IMAGE, "cls": datasets.Value("int32"), "wnid": datasets.Value("string")}
    write_split(tmp_path, "train", columns, features)
    numbers = load_hub_dataset(HubSource(str(tmp_path)))
    assert numbers.labels.tolist() == [4, 0, 4]
    assert numbers.class_names == ["0", "1", "2", "3", "4"]
    strings = load_hub_dataset(HubSource(str(tmp_path), label_column="wnid"))
    assert strings.labels.tolist() == [1, 0, 1]
    assert strings.class_names == ["n01", "n02"]


def test_without_labels(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"picture": cells(2)}, {"picture": IMAGE})
    dataset = load_hub_dataset(HubSource(str(tmp_path)))
    assert dataset.labels.tolist() == [-1, -1]
    assert not dataset.is_labeled


def test_choosing_between_columns(tmp_path: Path) -> None:
    columns = {"a": cells(2), "b": cells(2), "fine": [0, 1], "coarse": [1, 0]}
    write_split(tmp_path, "train", columns, {"a": IMAGE, "b": IMAGE, "fine": CLASSES, "coarse": CLASSES})
    with pytest.raises(ValueError, match=r"2 columns of images .*--image-column"):
        load_hub_dataset(HubSource(str(tmp_path)))
    with pytest.raises(ValueError, match=r"2 columns of classes \(fine, coarse\).*--label-column"):
        load_hub_dataset(HubSource(str(tmp_path), image_column="a"))
    with pytest.raises(ValueError, match=r"no column 'c'.*a, b, fine, coarse"):
        load_hub_dataset(HubSource(str(tmp_path), image_column="c"))
    dataset = load_hub_dataset(HubSource(str(tmp_path), image_column="b", label_column="coarse"))
    assert dataset.labels.tolist() == [1, 0]


def test_damaged_cells_are_named(tmp_path: Path) -> None:
    bad: list[Any] = [{"bytes": png(1)[:30], "path": "cut.png"}, {"bytes": b"", "path": None}, None]
    write_split(tmp_path, "train", {"image": bad, "label": [0, 0, 0]}, {"image": IMAGE, "label": CLASSES})
    dataset = load_hub_dataset(HubSource(str(tmp_path)))
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
    dataset = load_hub_dataset(HubSource(str(tmp_path)))
    assert dataset.labels.tolist() == [0, 1, 0]
    assert np.asarray(dataset[2].image)[0, 0].tolist() == [2, 0, 0]


def test_unusable_labels(tmp_path: Path) -> None:
    features = {"image": IMAGE, "label": datasets.Value("float32")}
    write_split(tmp_path, "train", {"image": cells(1), "label": [0.5]}, features)
    with pytest.raises(ValueError, match=r"'label' holds float.*--label-column"):
        load_hub_dataset(HubSource(str(tmp_path)))


def test_unknown_splits_and_data_sets(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"image": cells(1), "label": [0]}, {"image": IMAGE, "label": CLASSES})
    with pytest.raises(ValueError, match=r"no test split among train"):
        load_hub_dataset(HubSource(str(tmp_path)), "test")
    with pytest.raises(ValueError, match=r"cannot load it .*dev"):
        load_hub_dataset(HubSource(str(tmp_path)), "dev")
    with pytest.raises(ValueError, match=r"someone/nothing: the datasets library cannot load it"):
        load_hub_dataset(HubSource("someone/nothing"))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(name)

    monkeypatch.setattr("synco_hub.data.hub_dataset.importlib.import_module", missing)
    with pytest.raises(ImportError, match="pip install datasets"):
        load_hub_dataset(HubSource("someone/something"))


def test_several_classes_an_image(tmp_path: Path) -> None:
    lists = [[2, 0], [], [1]]
    columns = {"image": cells(3), "labels": lists, "difficult": [[1], [0, 2], None]}
    several = datasets.Sequence(CLASSES)
    write_split(tmp_path, "train", columns, {"image": IMAGE, "labels": several, "difficult": several})
    dataset = load_hub_dataset(HubSource(str(tmp_path)))
    assert dataset.multi_hot is not None
    assert dataset.multi_hot.tolist() == [[1, -1, 1], [-1, 0, -1], [0, 1, 0]]
    assert (dataset.class_names, dataset.labels.tolist()) == (["cat", "dog", "owl"], [-1, -1, -1])


def test_stored_bytes_and_names_are_handed_out(tmp_path: Path) -> None:
    stored: list[Any] = [*cells(2), {"bytes": png(7), "path": None}]
    write_split(tmp_path, "train", {"image": stored, "label": [0] * 3}, {"image": IMAGE, "label": CLASSES})
    dataset = load_hub_dataset(HubSource(str(tmp_path)))
    assert [dataset.encoded(index) for index in range(3)] == [cell["bytes"] for cell in stored]
    assert dataset.file_names() == ["0.png", "1.png", "row 2"]
    assert [dataset.name(index) for index in range(3)] == ["0.png (row 0)", "1.png (row 1)", "row 2"]


@pytest.mark.parametrize("kind", ["int64", "float32", "bool"])
def test_a_column_of_something_else_is_no_column_of_images(kind: str, tmp_path: Path) -> None:
    write_split(
        tmp_path, "train", {"image": [1, 0], "label": [0, 1]}, {"image": datasets.Value(kind), "label": CLASSES}
    )
    with pytest.raises(ValueError, match=f"column 'image' holds {kind}, not images"):
        load_hub_dataset(HubSource(str(tmp_path), image_column="image"))


def test_bytes_without_the_librarys_mark(tmp_path: Path) -> None:
    write_split(
        tmp_path, "train", {"jpg": [png(3), b"cut"], "cls": [0, 1]}, {"jpg": datasets.Value("binary"), "cls": CLASSES}
    )
    dataset = load_hub_dataset(HubSource(str(tmp_path), image_column="jpg"))
    assert dataset.load_image(0).size == (5, 4)
    with pytest.raises(UnreadableImageError, match="row 1"):
        dataset.load_image(1)


def test_columns_of_the_catalog_are_optional_for_another_copy(tmp_path: Path) -> None:
    write_split(tmp_path, "train", {"image": cells(2), "label": [0, 1]}, {"image": IMAGE, "label": CLASSES})
    source = HubSource(str(tmp_path), image_column="img", label_column="fine_label", optional_columns=True)
    assert load_hub_dataset(source).labels.tolist() == [0, 1]
