"""Archives and saved tables that the library alone would refuse or take apart."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from synco_hub.data import DatasetChoice, load_dataset, open_stream
from synco_hub.data.local_tables import scan_tar
from synco_hub.data.streams.images import StreamRow

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")


def picture(value: int, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value * 20, 0, 0)).save(buffer, {"jpg": "JPEG"}.get(kind, kind.upper()))
    return buffer.getvalue()


def write(file: Path, members: list[tuple[str, bytes]]) -> Path:
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.parent


def samples(kinds: list[str], first: int = 0) -> list[list[tuple[str, bytes]]]:
    return [
        [(f"{row:03d}.{kind}", picture(row, kind)), (f"{row:03d}.cls", str(row % 3).encode())]
        for row, kind in enumerate(kinds, first)
    ]


def flat(found: list[list[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
    return [member for sample in found for member in sample]


def shown(images, index) -> int:
    return round(images.load_image(index).getpixel((4, 4))[0] / 20)


@pytest.mark.parametrize("way", ["mixed", "apart", "both"])
def test_samples_are_put_together_by_position_and_in_a_stream(way: str, tmp_path: Path) -> None:
    kinds = ["png"] * 8 if way == "apart" else ["png", "jpg", "jpg", "webp"] * 2
    for split, first in (("train", 0), ("test", 2)):
        members = flat(samples(kinds, first))
        if way != "mixed":
            members.sort(key=lambda member: member[0].endswith("cls"))
        write(tmp_path / "t" / f"{split}-000.tar", members)
    train, test = (load_dataset(str(tmp_path / "t"), split) for split in ("train", "test"))
    assert train.labels.tolist() == [row % 3 for row in range(8)]
    assert [shown(train, index) for index in range(8)] == list(range(8))
    assert [shown(test, index) for index in range(8)] == list(range(2, 10))
    assert train.name(1) == f"001.{kinds[1]} (row 1)"
    source = open_stream(str(tmp_path / "t"))
    assert source.counts == (8,)
    images = source.images()
    assert [shown(images, StreamRow(0, row, cell)) for row, cell in enumerate(source.cells(0))] == list(range(8))
    assert [shown(images, StreamRow(0, row, cell)) for row, cell in enumerate(source.cells(0, 5))] == [5, 6, 7]


def test_an_archive_that_was_changed_is_read_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "t" / "train.tar", flat(samples(["png", "jpg"])))
    assert len(load_dataset(str(folder))) == 2
    write(tmp_path / "t" / "train.tar", flat(samples(["png", "jpg", "png"])))
    assert len(load_dataset(str(folder))) == 3


def test_several_images_a_sample_are_columns_or_the_cause_is_named(tmp_path: Path) -> None:
    pair = [(f"{row}.{side}.png", picture(row, "png")) for row in range(6) for side in ("left", "right")]
    folder = write(tmp_path / "pair" / "train.tar", pair)
    assert scan_tar(str(folder / "train.tar")).most_images == 2
    assert len(open_stream(DatasetChoice(str(folder), image_column="left.png")).counts) == 1
    folder = write(tmp_path / "some" / "train.tar", [*pair, ("9.jpg", picture(1, "jpg"))])
    for way in (load_dataset, open_stream):
        with pytest.raises(ValueError, match=r"images of several kinds \(jpg, left.png, right.png\)"):
            way(str(folder))


def test_what_the_library_saved_is_read_by_position(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})

    def table(count: int) -> datasets.Dataset:
        cells = [{"bytes": picture(row, "png"), "path": None} for row in range(count)]
        return datasets.Dataset.from_dict({"image": cells, "label": [row % 2 for row in range(count)]}, features)

    datasets.DatasetDict({"train": table(4), "test": table(3)}).save_to_disk(tmp_path / "both")
    table(5).save_to_disk(tmp_path / "one")
    train, test = (load_dataset(str(tmp_path / "both"), split) for split in ("train", "test"))
    assert ([shown(train, row) for row in range(4)], train.labels.tolist()) == ([0, 1, 2, 3], [0, 1, 0, 1])
    assert (len(test), test.class_names) == (3, ["a", "b"])
    assert len(load_dataset(str(tmp_path / "one"))) == 5
    with pytest.raises(ValueError, match="it has the splits train, test, not 'dev'"):
        load_dataset(str(tmp_path / "both"), "dev")
    streamed = open_stream(str(tmp_path / "both"))
    images = streamed.images(4)
    assert [shown(images, StreamRow(0, row, cell)) for row, cell in enumerate(streamed.cells(0))] == [0, 1, 2, 3]


def test_the_splits_of_a_saved_table_are_found_in_the_spellings_that_those_of_folders_are(tmp_path):
    cells = [{"bytes": picture(row, "png"), "path": None} for row in range(4)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 0, 1]}, features)
    splits = {"Training": table, "dev": table.select(range(3)), "unlabeled": table.select(range(2))}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "both")
    sizes = {
        split: len(load_dataset(str(tmp_path / "both"), split)) for split in ("train", "test", "pretraining", "dev")
    }
    assert sizes == {"train": 4, "test": 3, "pretraining": 6, "dev": 3}
