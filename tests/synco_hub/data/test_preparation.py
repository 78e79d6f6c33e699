"""Any data set as parquet files, whole after a kill at any moment."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_trees.original import WRITERS, write_original
from PIL import Image

from synco_hub.data.catalog.sets import CATALOG
from synco_hub.data.image_folder import ImageFolderDataset, load_image_folder
from synco_hub.data.loading import load_dataset
from synco_hub.data.preparation import (
    MANIFEST,
    PreparationSettings,
    Shard,
    ShardManifest,
    parse_bytes,
    prepare_dataset,
    require_complete,
)
from synco_hub.data.unreadable_images import TooManyBadImagesError
from synco_hub.settings import DatasetChoice

pytest.importorskip("datasets")

QUIET = PreparationSettings(shard_bytes=6000, num_workers=2, progress=False)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 25, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=80)


def folder_of(root: Path, count: int = 40) -> Path:
    for number in range(count):
        noise(root / f"train/{'cat dog owl'.split()[number % 3]}/{number:03d}.jpg", number)
    for number in range(6):
        noise(root / f"test/{'cat dog owl'.split()[number % 3]}/{number:03d}.jpg", 900 + number)
    return root


def both(root: Path) -> dict[str, Any]:
    return {split: load_image_folder(root, split) for split in ("train", "test")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_bytes_names_labels_and_order_are_kept_in_files_of_the_size(tmp_path: Path):
    splits = both(folder_of(tmp_path / "set"))
    done = prepare_dataset(splits, tmp_path / "out", QUIET)
    files = sorted(path.name for path in (tmp_path / "out").glob("train-*.parquet"))
    assert done["train"].files == len(files) > 3
    sizes = [os.path.getsize(tmp_path / "out" / file) for file in files]
    assert all(6000 <= size < 6000 + 5000 for size in sizes[:-1])
    for split, images in splits.items():
        read = load_dataset(tmp_path / "out", split)
        assert read.class_names == images.class_names
        assert read.labels.tolist() == images.labels.tolist()
        assert read.file_names() == images.file_names()
        assert [read.encoded(index) for index in range(len(read))] == [
            images.encoded(index) for index in range(len(images))
        ]


@pytest.mark.parametrize("name", sorted(set(WRITERS) - {"caltech101"}))
def test_every_set_of_the_catalog_is_read_back_under_its_name(name: str, tmp_path: Path):
    tree, row = write_original(name, tmp_path / "files", seed=2), CATALOG[name]
    splits = {split: load_dataset(DatasetChoice(name, data_dir=str(tree.root)), split) for split in row.splits}
    prepare_dataset(splits, tmp_path / "out", PreparationSettings(progress=False))
    for split in row.splits:
        read = load_dataset(DatasetChoice(name, data_dir=str(tmp_path / "out")), split)
        assert read.class_names == splits[split].class_names
        found = read.labels if read.multi_hot is None else read.multi_hot
        assert np.asarray(found).tolist() == tree.labels[split]
        assert read.load_image(0).tobytes() == splits[split].load_image(0).tobytes()


def test_a_run_that_was_stopped_anywhere_ends_at_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    splits = both(folder_of(tmp_path / "set"))
    prepare_dataset(splits, tmp_path / "whole", QUIET)
    whole = contents(tmp_path / "whole")
    read = ImageFolderDataset.encoded
    for stop_at in (1, 17, 30, 43):
        left = [stop_at]

        def stopping(self: ImageFolderDataset, index: int, left: list[int] = left) -> bytes:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return read(self, index)

        monkeypatch.setattr(ImageFolderDataset, "encoded", stopping)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(splits, tmp_path / "out", QUIET)
        monkeypatch.setattr(ImageFolderDataset, "encoded", read)
        with pytest.raises(ValueError, match="its preparation was stopped"):
            load_dataset(tmp_path / "out", "train")
        for leftover in (".train-00000.1a2b3c4d.parquet", ".prepared.1a2b3c4d.json"):
            (tmp_path / "out" / leftover).write_bytes(b"what a killed process leaves")
        prepare_dataset(splits, tmp_path / "out", QUIET)
        assert contents(tmp_path / "out") == whole
        shutil.rmtree(tmp_path / "out")


@pytest.mark.slow
def test_a_killed_process_continues_to_the_same_bytes(tmp_path: Path):
    root = folder_of(tmp_path / "set", 400)
    command = [sys.executable, "-m", "synco_hub.cli", "data", "prepare", str(root), "--shard-size", "20KB", "--output"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True)
    process = subprocess.Popen([*command, str(tmp_path / "out")])
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "out").glob("train-*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, str(tmp_path / "out")], check=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_bad_images_are_left_out_counted_and_named(tmp_path: Path):
    root = folder_of(tmp_path / "set")
    names = sorted(path.relative_to(root / "train").as_posix() for path in (root / "train").rglob("*.jpg"))
    whole = (root / "train" / names[9]).read_bytes()
    (root / "train" / names[3]).write_bytes(b"")
    (root / "train" / names[9]).write_bytes(whole[: len(whole) // 2])
    (root / "train" / names[39]).write_text("no image")
    splits = both(root)
    with pytest.raises(TooManyBadImagesError, match="--max-bad-fraction"):
        prepare_dataset(splits, tmp_path / "strict", QUIET)
    lenient = PreparationSettings(6000, 2, 0.2, False)
    done = prepare_dataset(splits, tmp_path / "out", lenient)
    assert done["train"].skipped == (names[3], names[9], names[39])
    assert (done["train"].images, len(load_dataset(tmp_path / "out", "train"))) == (37, 37)
    assert prepare_dataset(splits, tmp_path / "out", lenient) == done  # again: nothing left to do


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    splits = both(folder_of(tmp_path / "set"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no stopped preparation"):
        prepare_dataset(splits, tmp_path / "full", QUIET)
    assert contents(tmp_path / "full") == {"notes.txt": b"mine"}
    prepare_dataset(splits, tmp_path / "out", QUIET)
    before = contents(tmp_path / "out")
    noise(tmp_path / "set/train/cat/new.jpg", 5)
    with pytest.raises(ValueError, match="holds another source"):
        prepare_dataset(both(tmp_path / "set"), tmp_path / "out", QUIET)
    with pytest.raises(ValueError, match="holds files of 6000 bytes"):
        prepare_dataset(splits, tmp_path / "out", PreparationSettings(7000, progress=False))
    assert contents(tmp_path / "out") == before
    (tmp_path / "out/train-00001.parquet").unlink()
    with pytest.raises(ValueError, match=r"train-00001\.parquet was removed since"):
        prepare_dataset(splits, tmp_path / "out", QUIET)


def test_images_without_classes(tmp_path: Path):
    for number in range(3):
        noise(tmp_path / f"set/{number}.png", number)
    prepare_dataset({"train": load_image_folder(tmp_path / "set")}, tmp_path / "out", QUIET)
    read = load_dataset(tmp_path / "out", "train")
    assert (read.labels.tolist(), read.num_classes) == ([-1, -1, -1], 0)


def test_a_bomb_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(3):
        noise(tmp_path / f"set/train/a/{number}.png", number)
    stream = io.BytesIO()
    Image.new("L", (400, 400)).save(stream, "PNG")
    (tmp_path / "set/train/a/bomb.png").write_bytes(stream.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    names = ["0.png", "1.png", "bomb.png", "2.png"]
    images = ImageFolderDataset(tmp_path / "set/train/a", names, [0] * 4, ["a"], "train", "all")
    done = prepare_dataset({"train": images}, tmp_path / "out", PreparationSettings(6000, 1, 0.5, False))
    assert (done["train"].images, done["train"].skipped) == (3, ("bomb.png",))


@pytest.mark.parametrize(
    ("text", "count"), [("256MB", 256_000_000), ("1 GiB", 1 << 30), ("0.5kb", 500), ("123", 123), (" 2mib", 2 << 20)]
)
def test_sizes(text: str, count: int):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "0", "10 apples", "nan", "inf"])
def test_no_sizes(text: str):
    with pytest.raises(ValueError, match="such as 256MB"):
        parse_bytes(text)


def test_the_manifest_is_no_data(tmp_path: Path):
    prepare_dataset(both(folder_of(tmp_path / "set")), tmp_path / "out", QUIET)
    assert (tmp_path / "out" / MANIFEST).is_file()
    from datasets import load_dataset as library

    table = library(str(tmp_path / "out"))
    assert {split: len(rows) for split, rows in table.items()} == {"train": 40, "test": 6}
    assert table["train"].features["label"].names == ["cat", "dog", "owl"]


def test_saved_and_loaded(tmp_path: Path):
    assert ShardManifest.load(tmp_path) is None
    manifest = ShardManifest(
        {"train": {"name": "x"}}, {"shard_bytes": 5}, {"train": [Shard("a.parquet", 7, 5, (2, 6))]}
    )
    manifest.save(tmp_path)
    assert ShardManifest.load(tmp_path) == manifest


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", json.dumps({"format": 2}), json.dumps({"format": 1, "shards": {}, "other": 1})],
)
def test_damaged(content: str, tmp_path: Path):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match="not a manifest of prepared shards"):
        ShardManifest.load(tmp_path)


def test_only_a_whole_preparation_is_read(tmp_path: Path):
    require_complete(tmp_path)
    # The second entry says which images after the last file could not be read; there is no such file.
    manifest = ShardManifest({}, {}, {"train": [Shard("a.parquet", 1, 1), Shard("b.parquet", 3, 0, (1, 2))]})
    manifest.save(tmp_path)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(ValueError, match="its preparation was stopped; run the same"):
        require_complete(tmp_path)
    manifest.complete = True
    manifest.save(tmp_path)
    require_complete(tmp_path)
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ValueError, match=r"a\.parquet is missing"):
        require_complete(tmp_path)


def test_a_class_has_one_number_in_the_shards_of_every_split(tmp_path: Path):
    for number, name in enumerate(("train/a", "train/c", "test/b", "test/c")):
        noise(tmp_path / f"set/{name}/{number}.png", number)
    prepare_dataset(both(tmp_path / "set"), tmp_path / "out", QUIET)
    for split, expected in (("train", ["a", "c"]), ("test", ["b", "c"])):
        for read in (load_image_folder(tmp_path / "set", split), load_dataset(tmp_path / "out", split)):
            assert read.class_names == ["a", "b", "c"]
            assert [read.class_names[label] for label in read.labels] == expected
    pq = pytest.importorskip("pyarrow.parquet")
    train, test = (pq.read_table(tmp_path / f"out/{split}-00000.parquet") for split in ("train", "test"))
    assert train.schema.metadata == test.schema.metadata


def test_names_of_any_bytes_are_written(tmp_path: Path):
    names = [b"caf\xe9/\xff.png", b"caf\xe9/ 'a' \"b\".png", b"b/" + b"z" * 250 + b".png", "ü/ö 1.png".encode()]
    for number, name in enumerate(names):
        noise(Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xe9t/" + name)), number)
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/s\xe9t"))
    prepare_dataset({"train": load_image_folder(root, "pretraining")}, tmp_path / "out", QUIET)
    read = load_dataset(tmp_path / "out", "train")
    assert read.class_names == ["b", "caf\\xe9", "ü"]
    assert read.name(2).startswith("caf\\xe9/\\xff.png")
    assert len(read) == 4
