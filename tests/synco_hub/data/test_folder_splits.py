"""Names of folders: which are splits, in the spellings that people use."""

import pytest

from synco_hub.data.folder_splits import SplitKind, find_split_folders, find_split_kind, is_filler, list_split_folders


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (SplitKind.train, "train Train TRAINING train2017 train_images images-train TrainSet trainval train_val"),
        (SplitKind.train, "Entraînement entrenamiento treino 训练集 学習"),
        (SplitKind.test, "test Testing tests val VAL val2017 valid validation Validation dev eval evaluation"),
        (SplitKind.test, "test_images ValSet hold-out Validación テスト"),
        (SplitKind.unlabeled, "unlabeled Unlabelled unlabeled2017"),
        (
            None,
            "trains cat trainer testament train_masks train_labels station valley developer 2017 a images",
        ),
    ],
)
def test_spellings(kind: SplitKind | None, names: str) -> None:
    assert {name: find_split_kind(name) for name in names.split()} == dict.fromkeys(names.split(), kind)


def test_fillers() -> None:
    assert all(map(is_filler, ("images", "Images", "imgs", "JPEGImages", "data_set", "photos")))
    assert not any(map(is_filler, ("cats", "2020", "imagenet", "train", "")))


def test_the_order_in_which_test_folders_are_preferred() -> None:
    assert list_split_folders(["dev", "Validation", "val", "train", "Test"], SplitKind.test) == (
        "Test",
        "val",
        "Validation",
        "dev",
    )


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        ({"train": (), "test": ()}, ("train", "test", "", "")),
        ({"Train": ("a",), "Val": ("a",), "masks": (), "unlabeled": ()}, ("Train", "Val", "unlabeled", "masks")),
        ({"train": ("a", "b")}, ("train", "", "", "")),
        ({"train": ()}, ("train", "", "", "")),
        ({"val": ("a",)}, ("", "val", "", "")),
        ({"train": ("a",), "masks": ()}, ("train", "", "", "masks")),
        # A class of locomotives beside other vehicles.
        ({"train": (), "bus": (), "car": ()}, None),
        ({"trn": ("a",), "tst": ("a",)}, ("trn", "tst", "", "")),
        ({"Tr": ("a",), "Te": ("a",), "val": ("a",), "unlabeled": ("b",)}, ("Tr", "val Te", "unlabeled", "")),
        # Languages, and two classes of loose images.
        ({"tr": ("a",), "te": ("a",), "en": ("a",)}, None),
        ({"tr": (), "te": ()}, None),
        ({"test": (), "bus": ()}, None),
        ({"seg_train": ("a",), "seg_test": ("a",), "seg_pred": ()}, ("seg_train", "seg_test", "", "seg_pred")),
        ({"Trainingsdaten": ("a",), "Testdaten": ("a",)}, ("Trainingsdaten", "Testdaten", "", "")),
        ({"x ray train": ("a",), "x ray val": ("a",)}, ("x ray train", "x ray val", "", "")),
        # A class that is called as the others are, and a test.
        ({"steam train": (), "steam engine": ()}, None),
        ({"steam train": (), "steam test": (), "engine": ()}, None),
        ({"cat": (), "dog": ()}, None),
        ({}, None),
    ],
)
def test_splits_or_classes(folders: dict[str, tuple[str, ...]], expected: tuple[str, ...] | None) -> None:
    found = find_split_folders(folders)
    if found is None:
        assert expected is None
        return
    parts = (found.train, found.tests, found.unlabeled, found.others)
    assert expected == tuple(" ".join(part) for part in parts)
    assert not found.classes_beside


def test_classes_beside_their_test_folder() -> None:
    found = find_split_folders({"cat": (), "dog": (), "test": ("cat", "dog")})
    assert found is not None
    assert (found.tests, found.others, found.classes_beside) == (("test",), ("cat", "dog"), True)


def test_unlabeled_images_are_no_class() -> None:
    found = find_split_folders({"cat": (), "dog": (), "unlabeled": ()})
    assert found is not None
    assert (found.unlabeled, found.others, found.classes_beside) == (("unlabeled",), ("cat", "dog"), True)
    assert find_split_folders({"cat": (), "extra": ()}) is None
