"""Counts, orders and splits against the catalog; test images among the training images."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_trees.original import put, write_original
from PIL import Image

from synco_hub.data.catalog.row import DatasetRow
from synco_hub.data.catalog.sets import CATALOG, find_catalog_row
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.image_folder import load_image_folder
from synco_hub.data.loading import load_dataset
from synco_hub.data.table_source import TableSource
from synco_hub.data.tables import TableDataset, load_table
from synco_hub.data.verification import (
    LOOKED_FOR_AT_MOST,
    SplitVerdict,
    count_images_of_classes,
    measure_overlap,
    verify_dataset,
    verify_split,
)
from synco_hub.settings import DatasetChoice


def opened(name: str, root: Path) -> dict[str, ImageDataset]:
    return {split: load_dataset(DatasetChoice(name, data_dir=str(root)), split) for split in CATALOG[name].splits}


def row_of_tree(name: str, root: Path) -> DatasetRow:
    """The catalog's row with the counts of a small tree."""
    splits = opened(name, root)
    spread = {split: count_images_of_classes(images) for split, images in splits.items()}
    return replace(
        find_catalog_row(name),
        counts={split: len(images) for split, images in splits.items()},
        num_classes=next(iter(splits.values())).num_classes,
        per_class={split: (int(counts[counts > 0].min()), int(counts.max())) for split, counts in spread.items()},
        printed={},
    )


def problems(verdicts: dict[str, SplitVerdict]) -> str:
    return " ".join(text for verdict in verdicts.values() for text in verdict.problems)


@pytest.mark.parametrize("name", ["oxford-pets", "dtd"])
def test_a_whole_tree_agrees(name: str, tmp_path: Path):
    write_original(name, tmp_path)
    assert all(
        verdict.agrees for verdict in verify_dataset(row_of_tree(name, tmp_path), opened(name, tmp_path)).values()
    )


@pytest.mark.parametrize("name", ["oxford-pets", "dtd", "flowers102", "food101", "voc2007", "sun397"])
def test_a_removed_image(name: str, tmp_path: Path):
    write_original(name, tmp_path)
    row = row_of_tree(name, tmp_path)
    images = load_dataset(DatasetChoice(name, data_dir=str(tmp_path)), "test")
    (images.root / images.names[2]).unlink()
    verdict = verify_dataset(row, opened(name, tmp_path))["test"]
    assert (verdict.agrees, verdict.images) == (False, row.counts["test"] - 1)
    assert images.names[2] in " ".join(verdict.problems)


def test_a_removed_line(tmp_path: Path):
    write_original("dtd", tmp_path)
    row = row_of_tree("dtd", tmp_path)
    file = tmp_path / "dtd/labels/test1.txt"
    file.write_text("\n".join(file.read_text().splitlines()[1:]))
    assert not verify_dataset(row, opened("dtd", tmp_path))["test"].agrees


def test_a_swapped_list_of_names(tmp_path: Path):
    write_original("cifar10", tmp_path)
    row = row_of_tree("cifar10", tmp_path)
    assert not problems(verify_dataset(row, opened("cifar10", tmp_path)))
    meta = tmp_path / "cifar-10-batches-py/batches.meta"
    import pickle

    names = pickle.loads(meta.read_bytes())["label_names"]
    names[3], names[5] = names[5], names[3]
    meta.write_bytes(pickle.dumps({"label_names": names}))
    found = verify_dataset(row, opened("cifar10", tmp_path))
    assert not any(verdict.agrees for verdict in found.values())
    assert "2 class names are in another order than the catalog's (class 3 is 'dog', there 'cat')" in problems(found)


def test_names_of_another_set(tmp_path: Path):
    write_original("fgvc-aircraft", tmp_path)
    row = row_of_tree("fgvc-aircraft", tmp_path)
    data = tmp_path / "fgvc-aircraft-2013b/data"
    for file in data.glob("*.txt"):
        file.write_text(file.read_text().replace("707-320", "Zeppelin NT"))
    assert "class names are others" in problems(verify_dataset(row, opened("fgvc-aircraft", tmp_path)))


def test_labels_swapped_among_the_images(tmp_path: Path):
    from scipy.io import loadmat, savemat

    root = write_original("flowers102", tmp_path).root
    row = replace(row_of_tree("flowers102", tmp_path), per_class={"train": (1, 3), "test": (1, 3)})
    labels = loadmat(root / "imagelabels.mat")["labels"]
    savemat(root / "imagelabels.mat", {"labels": np.full_like(labels, 5)})
    found = verify_dataset(row, opened("flowers102", tmp_path))
    assert not any(verdict.agrees for verdict in found.values())
    assert "1 classes have not 1 to 3 images" in problems(found)


def test_flowers_with_exchanged_splits(tmp_path: Path):
    from scipy.io import loadmat, savemat

    root = write_original("flowers102", tmp_path).root
    row = row_of_tree("flowers102", tmp_path)
    sets = loadmat(root / "setid.mat")
    exchanged = {
        "trnid": sets["tstid"],
        "valid": sets["tstid"][:, :0],
        "tstid": np.hstack([sets["trnid"], sets["valid"]]),
    }
    savemat(root / "setid.mat", exchanged)
    found = verify_dataset(row, opened("flowers102", tmp_path))
    assert not any(verdict.agrees for verdict in found.values())
    assert "train and test look exchanged" in problems(found)


def test_a_test_list_that_is_the_training_list(tmp_path: Path):
    write_original("dtd", tmp_path)
    labels = tmp_path / "dtd/labels"
    (labels / "test1.txt").write_text((labels / "train1.txt").read_text() + (labels / "val1.txt").read_text())
    row = row_of_tree("dtd", tmp_path)
    assert "47 images are in train and in test" in problems(verify_dataset(row, opened("dtd", tmp_path)))


def test_the_draw_from_the_archive_has_the_image_that_the_copy_lacks(tmp_path: Path):
    write_original("caltech101", tmp_path)
    images = load_dataset(DatasetChoice("caltech101", data_dir=str(tmp_path)), "test")
    verdict = verify_split(find_catalog_row("caltech101"), images, "test")
    assert (verdict.expected_images, verdict.expected_classes, verdict.classes) == (6085, 102, 102)


def test_classes_of_imagenet_100_of_another_list(tmp_path: Path):
    write_original("imagenet-100", tmp_path)
    row = row_of_tree("imagenet-100", tmp_path)
    verdict = verify_dataset(row, opened("imagenet-100", tmp_path))["train"]
    assert (verdict.agrees, verdict.classes < 100) == (False, True)


def test_copies_may_spell_names_otherwise():
    from synco_hub.data.verification import _names

    class Named:
        stored_class_names = None

    images = Named()
    images.class_names = [name.replace("_", " ").title() for name in _list("cifar100")]
    images.class_names[26] = "cra"  # as one copy on the Hub spells the crab
    assert _names(find_catalog_row("cifar100"), images) == []  # type: ignore[arg-type]
    images.class_names = [str(number) for number in range(100)]
    assert _names(find_catalog_row("cifar100"), images) == []  # type: ignore[arg-type]


def test_words_for_wnids_stand_where_the_list_has_them():
    from timm.data import ImageNetInfo

    from synco_hub.data.verification import _names

    class Named:
        class_names = ()

    images, words = Named(), ImageNetInfo()
    # As the copy on the Hub names them: by the first word alone.
    images.stored_class_names = [words.label_name_to_description(wnid).split(",")[0] for wnid in _list("imagenet_100")]
    assert images.stored_class_names[:4] == ["bonnet", "green mamba", "langur", "Doberman"]
    assert _names(find_catalog_row("imagenet-100"), images) == []  # type: ignore[arg-type]
    images.stored_class_names = sorted(images.stored_class_names)
    assert "in another order" in _names(find_catalog_row("imagenet-100"), images)[0]  # type: ignore[arg-type]
    images.stored_class_names = list(_list("imagenet_100"))
    assert _names(find_catalog_row("imagenet-100"), images) == []  # type: ignore[arg-type]


def _list(name: str) -> tuple[str, ...]:
    from synco_hub.data.class_lists import read_class_list

    return read_class_list(name)


def test_several_classes_an_image_are_counted_for_each(tmp_path: Path):
    tree = write_original("voc2007", tmp_path)
    images = load_dataset(DatasetChoice("voc2007", data_dir=str(tmp_path)), "train")
    assert count_images_of_classes(images).tolist() == (np.array(tree.labels["train"]) == 1).sum(axis=0).tolist()


def test_another_layout_says_what_is_missing(tmp_path: Path):
    write_original("voc2007", tmp_path)
    put(tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt", "")
    with pytest.raises(ValueError, match="the list is empty"):
        opened("voc2007", tmp_path)


def test_a_test_batch_in_the_place_of_a_training_batch(tmp_path: Path) -> None:
    root = write_original("cifar10", tmp_path).root
    splits = {
        split: load_dataset(DatasetChoice("cifar10", data_dir=str(tmp_path)), split) for split in ("train", "test")
    }
    assert measure_overlap(splits["train"], splits["test"]) is None
    folder = root / "cifar-10-batches-py"
    shutil.copy(folder / "test_batch", folder / "data_batch_3")
    splits = {
        split: load_dataset(DatasetChoice("cifar10", data_dir=str(tmp_path)), split) for split in ("train", "test")
    }
    assert measure_overlap(splits["train"], splits["test"]) == (
        "5 of 5 test images looked for are in train too (first test_0.png)"
    )
    counts = {split: len(images) for split, images in splits.items()}
    row = replace(CATALOG["cifar10"], counts=counts, per_class={})
    assert not any(verdict.agrees for verdict in verify_dataset(row, splits).values())


def test_a_training_file_that_is_the_test_file(tmp_path: Path) -> None:
    folder = write_original("cifar100", tmp_path).root / "cifar-100-python"
    shutil.copy(folder / "test", folder / "train")
    splits = [load_dataset(DatasetChoice("cifar100", data_dir=str(tmp_path)), split) for split in ("train", "test")]
    assert str(measure_overlap(*splits)).startswith("5 of 5 test images")


def table(root: Path, train: list[int], test: list[int], monkeypatch: pytest.MonkeyPatch) -> list[TableDataset]:
    """Parquet files whose images are drawn from seeds."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", root / "hf")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, seeds in (("train", train), ("test", test)):
        cells = [{"bytes": png(seed), "path": f"{split}{number}.png"} for number, seed in enumerate(seeds)]
        rows = {"image": cells, "label": [number % 2 for number in range(len(cells))]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(root / f"{split}.parquet")
    return [load_table(TableSource(str(root)), split) for split in ("train", "test")]


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_rows_of_a_parquet_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = table(tmp_path / "clean", [*range(40)], [*range(40, 60)], monkeypatch)
    assert measure_overlap(train, test) is None
    sizes = train.encoded_sizes()
    assert sizes is not None
    assert sizes.tolist() == [len(train.encoded(index)) for index in range(40)]
    # Two of twenty are no more than published sets have.
    assert measure_overlap(*table(tmp_path / "twice", [*range(40)], [0, 1, *range(40, 58)], monkeypatch)) is None
    thrice = table(tmp_path / "thrice", [*range(40)], [0, 1, 2, *range(40, 57)], monkeypatch)
    assert str(measure_overlap(*thrice)).startswith("3 of 20 test images looked for")
    train, test = table(tmp_path / "mixed", [*range(40)], [*range(40, 50), *range(7, 17)], monkeypatch)
    assert (
        measure_overlap(train, test) == "10 of 20 test images looked for are in train too (first test10.png (row 10))"
    )


def test_only_some_images_of_a_large_split_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("synco_hub.data.verification.LOOKED_FOR_AT_MOST", 10)
    train, test = table(tmp_path / "data", [*range(30)], [*range(30)], monkeypatch)
    read: list[int] = []
    stored = test.encoded
    monkeypatch.setattr(test, "encoded", lambda index: read.append(index) or stored(index))
    assert str(measure_overlap(train, test)).startswith("10 of 10 test images looked for")
    assert (len(read), read[0], read[-1]) == (10, 0, 29)
    assert LOOKED_FOR_AT_MOST == 1000


def test_files_of_two_folders(tmp_path: Path) -> None:
    for split, offset in (("train", 0), ("val", 50)):
        for number in range(12):
            file = tmp_path / split / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(offset + number))
    # The names agree and the images do not.
    assert measure_overlap(*(load_image_folder(tmp_path, split) for split in ("train", "test"))) is None
    shutil.rmtree(tmp_path / "val")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    found = measure_overlap(*(load_image_folder(tmp_path, split) for split in ("train", "test")))
    assert found == "12 of 12 test images looked for are in train too (first a/0.png)"
