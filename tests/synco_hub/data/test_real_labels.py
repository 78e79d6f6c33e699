"""ReaL labels against timm's own reader, and where it cannot be known which image is which."""

import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from data_trees.original import imagenet_with_official_names
from timm.data import RealLabelsImagenet

from synco_hub.data import DatasetDescription, ImageDataset, load_dataset
from synco_hub.data.class_labels import renumber
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.image_dataset import UNLABELED
from synco_hub.data.real_labels import RealLabels, find_real_labels
from synco_hub.settings import DatasetChoice

WNIDS = read_class_list("imagenet_1k")


class Named(ImageDataset):
    """Images that are names and labels alone."""

    def __init__(self, names, labels=None, dataset="imagenet-1k", split="test", class_names=WNIDS):
        about = DatasetDescription(dataset, "here", split, len(names), len(class_names), "given", "0")
        super().__init__([0] * len(names) if labels is None else labels, class_names, about)
        self.names = names

    def name(self, index):
        return self.names[index]


@pytest.fixture(scope="module")
def timms():
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 50_001)]
    return RealLabelsImagenet(names).real_labels


def rows_of(real):
    return [[label for label in row if label >= 0] for row in real.rows.tolist()]


def test_all_labels_are_timms_in_whatever_order_the_files_come(timms):
    names = np.random.default_rng(0).permutation(list(timms)).tolist()
    real = find_real_labels(Named([f"val/x/{name}" for name in names]))
    assert rows_of(real) == [timms[name] for name in names]
    assert real.count == sum(map(bool, timms.values())) == 46_837
    assert real.note == "ReaL: 3163 of 50000 images have no right class in it and do not count"
    some = real.take(torch.tensor([7, 2]))
    assert rows_of(some) == [timms[names[7]], timms[names[2]]]
    again = RealLabels.from_dict(json.loads(json.dumps(some.to_dict())))
    assert (rows_of(again), again.count) == (rows_of(some), some.count)


def test_names_of_the_copies_on_the_hub(timms):
    kinds = ("ILSVRC2012_val_00000003_n02106030.JPEG (row 5)", "n02106030/ILSVRC2012_val_00000003.jpg")
    assert rows_of(find_real_labels(Named(kinds))) == [timms["ILSVRC2012_val_00000003.JPEG"]] * 2


def test_a_whole_split_without_names_is_known_by_its_order_where_its_labels_agree(timms):
    rng = np.random.default_rng(0)
    # Nine of ten labels are right ones, as ImageNet's are.
    labels = [labels[0] if labels and rng.random() < 0.9 else int(rng.integers(1000)) for labels in timms.values()]
    rows = [f"row {number}" for number in range(50_000)]
    assert rows_of(find_real_labels(Named(rows, labels))) == list(timms.values())
    for other in (np.sort(labels), np.full(50_000, UNLABELED), labels[:-1]):
        real = find_real_labels(Named(rows[: len(other)], other))
        assert (real.rows, real.count) == (None, 0)
        assert real.note.startswith(f"no ReaL accuracy: {len(other)} of {len(other)} images are not called ILSVRC2012")


def test_one_file_of_another_name_leaves_all_unknown():
    for wrong in ("mine.JPEG", "ILSVRC2012_val_00050001.JPEG", "ILSVRC2012_val_00000000.JPEG"):
        real = find_real_labels(Named(["ILSVRC2012_val_00000001.JPEG", wrong]))
        assert real.rows is None
        assert f"1 of 2 images are not called ILSVRC2012_val_<number> as the official files are (first: {wrong})" in (
            real.note
        )
        assert RealLabels.from_dict(real.to_dict()) == real.take(torch.tensor([0])) == real


def test_other_images_have_none():
    names = ["ILSVRC2012_val_00000002.JPEG"]
    assert find_real_labels(Named(names, split="train")) is None
    assert find_real_labels(Named(names, dataset="imagenet-w")) is None
    assert find_real_labels(Named(names, class_names=("a", "b"))) is None
    assert find_real_labels(Named(names, dataset="imagenet-1pct")).count == 1


def test_the_numbers_are_those_of_the_images_own_list_of_classes(timms):
    images = Named(["ILSVRC2012_val_00000002.JPEG"])
    renumber(images, ["further", *reversed(WNIDS)])
    assert rows_of(find_real_labels(images)) == [[1000 - label for label in timms["ILSVRC2012_val_00000002.JPEG"]]]


@pytest.mark.parametrize("kind", ["folder", "flat archive", "parquet", "webdataset"])
def test_every_layout_of_the_set_keeps_the_names(kind, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tree = imagenet_with_official_names(tmp_path / "imagenet")
    root, files = tree.root, sorted((tree.root / "val").rglob("*.JPEG"))
    if kind == "parquet":
        cells = [{"bytes": file.read_bytes(), "path": f"{file.stem}_{file.parent.name}.JPEG"} for file in files]
        columns = {"image": cells, "label": [WNIDS.index(file.parent.name) for file in files]}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(1000)})
        root = tmp_path / "tables"
        root.mkdir()
        for split in ("train", "validation"):
            datasets.Dataset.from_dict(columns, features=features).to_parquet(root / f"{split}-00000-of-00001.parquet")
    elif kind == "webdataset":
        root = tmp_path / "shards"
        root.mkdir()
        for split in ("train", "validation"):
            with tarfile.open(root / f"imagenet1k-{split}-00.tar", "w") as archive:
                for file in files:
                    label = str(WNIDS.index(file.parent.name)).encode()
                    for suffix, content in (("jpg", file.read_bytes()), ("cls", label)):
                        info = tarfile.TarInfo(f"{file.stem}.{suffix}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
    elif kind == "flat archive":
        shutil.rmtree(root / "train")
    images = load_dataset(DatasetChoice("imagenet-1k", data_dir=str(root)), "test")
    real = find_real_labels(images)
    names = [next(name for name in tree.real if name[:-5] in images.name(index)) for index in range(len(images))]
    assert sorted(names) == sorted(tree.real)
    assert rows_of(real) == [tree.real[name] for name in names]
