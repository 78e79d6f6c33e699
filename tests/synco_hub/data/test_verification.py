from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from data_trees.original import put, write_original

from synco_hub.data.catalog.row import DatasetRow
from synco_hub.data.catalog.rows import CATALOG, catalog_row
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.loading import load_dataset
from synco_hub.data.verification import SplitVerdict, images_of_classes, verify_dataset, verify_split


def opened(name: str, root: Path) -> dict[str, ImageDataset]:
    return {split: load_dataset(name, split, data_dir=root) for split in CATALOG[name].splits}


def row_of_tree(name: str, root: Path) -> DatasetRow:
    """The catalog's row with the counts of a small tree."""
    splits = opened(name, root)
    spread = {split: images_of_classes(images) for split, images in splits.items()}
    return replace(
        catalog_row(name),
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
    images = load_dataset(name, "test", data_dir=tmp_path)
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
    images = load_dataset("caltech101", "test", data_dir=tmp_path)
    verdict = verify_split(catalog_row("caltech101"), images, "test")
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
    assert _names(catalog_row("cifar100"), images) == []  # type: ignore[arg-type]
    images.class_names = [str(number) for number in range(100)]
    assert _names(catalog_row("cifar100"), images) == []  # type: ignore[arg-type]


def test_words_for_wnids_stand_where_the_list_has_them():
    from timm.data import ImageNetInfo

    from synco_hub.data.verification import _names

    class Named:
        class_names = ()

    images, words = Named(), ImageNetInfo()
    # As the copy on the Hub names them: by the first word alone.
    images.stored_class_names = [words.label_name_to_description(wnid).split(",")[0] for wnid in _list("imagenet_100")]
    assert images.stored_class_names[:4] == ["bonnet", "green mamba", "langur", "Doberman"]
    assert _names(catalog_row("imagenet-100"), images) == []  # type: ignore[arg-type]
    images.stored_class_names = sorted(images.stored_class_names)
    assert "in another order" in _names(catalog_row("imagenet-100"), images)[0]  # type: ignore[arg-type]
    images.stored_class_names = list(_list("imagenet_100"))
    assert _names(catalog_row("imagenet-100"), images) == []  # type: ignore[arg-type]


def _list(name: str) -> tuple[str, ...]:
    from synco_hub.data.class_lists import class_list

    return class_list(name)


def test_several_classes_an_image_are_counted_for_each(tmp_path: Path):
    tree = write_original("voc2007", tmp_path)
    images = load_dataset("voc2007", "train", data_dir=tmp_path)
    assert images_of_classes(images).tolist() == (np.array(tree.labels["train"]) == 1).sum(axis=0).tolist()


def test_another_layout_says_what_is_missing(tmp_path: Path):
    write_original("voc2007", tmp_path)
    put(tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt", "")
    with pytest.raises(ValueError, match="the list is empty"):
        opened("voc2007", tmp_path)
