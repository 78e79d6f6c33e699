"""Which folders are splits of a data set and which are classes, in the spellings that people use."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum


class SplitKind(StrEnum):
    """What a folder's name says that its images are for."""

    train = "train"
    test = "test"
    unlabeled = "unlabeled"


# Without accents and case; of several test folders the first in this order that has labels is the test split.
_WORDS: Mapping[SplitKind, tuple[str, ...]] = {
    SplitKind.train: (
        *("train", "training", "trainset", "trainval", "entrainement", "apprentissage", "entrenamiento"),
        *("addestramento", "treino", "treinamento", "trening", "训练", "训练集", "訓練", "学習", "обучение"),
        *("trainingsdaten", "trainingsbilder", "trainingset"),
    ),
    SplitKind.test: (
        *("test", "testing", "tests", "testset", "prueba", "pruebas", "teste", "测试", "测试集", "テスト", "тест"),
        *("val", "validation", "valid", "validating", "valset", "validierung", "validacion", "validazione"),
        *("validacao", "验证", "验证集", "検証", "dev", "devel", "eval", "evaluation", "holdout"),
        *("testdaten", "testbilder", "prova", "validierungsdaten"),
    ),
    SplitKind.unlabeled: ("unlabeled", "unlabelled", "unsupervised", "unsup", "extra"),
}
_KINDS = {
    unicodedata.normalize("NFKD", word): (kind, place)
    for kind, words in _WORDS.items()
    for place, word in enumerate(words)
}
# What could be a class as well, such as a language: splits where all folders are some, and hold class folders.
_ABBREVIATIONS: Mapping[str, SplitKind] = {
    **dict.fromkeys(("tr", "trn", "tra"), SplitKind.train),
    **dict.fromkeys(("te", "tst", "ts", "va", "vl", "vld"), SplitKind.test),
}
# Words that say of a folder only that images are in it.
_FILLERS = frozenset(
    "data dataset files folder image images img imgs jpeg jpegimages jpegs jpg jpgs photo photos picture pictures png "  # noqa: SIM905
    "pngs set sets split splits".split()
)


def find_split_kind(name: str) -> SplitKind | None:
    """What a folder's name says its images are for: `Train`, `val2017`, `test_images`; None for any other name."""
    found = _spell(name)
    return None if found is None else found[0]


def are_abbreviations(names: Collection[str]) -> bool:
    """Whether all names are those of splits, some cut short (`trn`, `tst`), of training and of test."""
    kinds = [find_split_kind(name) or _ABBREVIATIONS.get("".join(_words(name))) for name in names]
    return None not in kinds and {SplitKind.train, SplitKind.test} <= set(kinds)


def name_split(name: str) -> str | None:
    """The split that a name says: `train`, `unlabeled`, or the word for test images, such as `val`."""
    found = _spell(name)
    if found is None or found[0] is not SplitKind.test:
        return None if found is None else str(found[0])
    words, place = _WORDS[found[0]], found[1]
    # Splits become names of files, which cannot hold every letter everywhere.
    return words[place] if words[place].isascii() else "test" if place < words.index("val") else "validation"


def name_short_split(name: str) -> str | None:
    """As `name_split` for words that are cut short, such as `trn` and `tst`."""
    found = _ABBREVIATIONS.get("".join(_words(name)))
    return None if found is None else str(found)


def list_split_folders(names: Iterable[str], kind: SplitKind) -> tuple[str, ...]:
    """The folders of one kind, in the order in which they are preferred."""
    spelled = {name: found for name in names if (found := _spell(name)) is not None and found[0] is kind}
    return tuple(sorted(spelled, key=lambda name: (spelled[name][1], name)))


def is_filler(name: str) -> bool:
    """Whether a folder's name only says that images are in it, as `images` or `imgs` do."""
    words = _words(name)
    return bool(words) and set(words) <= _FILLERS


def _words(name: str) -> list[str]:
    """`TrainImages_2017` becomes train, images."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", apart) if not unicodedata.combining(letter))
    return re.findall(r"[^\W\d_]+", plain.casefold())


def _spell(name: str) -> tuple[SplitKind, int] | None:
    # Together: train_val is trainval.
    return _KINDS.get("".join(word for word in _words(name) if word not in _FILLERS))


@dataclass(frozen=True)
class SplitFolders:
    """The folders of a data set that has splits.

    Attributes:
        train: Folders of training images; a data set of test images only has none.
        tests: Folders of test images, in the order in which they are preferred.
        unlabeled: Folders of images that are there for learning without labels.
        others: The other folders with images.
        classes_beside: Whether `others` are the classes of the training images.
    """

    train: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    unlabeled: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    classes_beside: bool = False


def find_split_folders(subfolders: Mapping[str, Collection[str]]) -> SplitFolders | None:
    """Tells splits from classes.

    A lone `train/` beside folders of other names is a split where it holds class folders, and a class of its own (of
    locomotives) where it holds images. A lone `test/` beside other folders is a split where it holds their names, and
    `unlabeled/` is no class.

    Args:
        subfolders: The folders directly in a data set's folder, each with the folders directly in it.

    Returns:
        None where they are no splits.
    """
    return _tell_splits(subfolders) or _tell_named_alike(subfolders)


def _tell_named_alike(subfolders: Mapping[str, Collection[str]]) -> SplitFolders | None:
    """Splits whose names share a word, such as `seg_train`, `seg_test` and `seg_pred`."""
    words = {name: _words(name) for name in subfolders}
    shared = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    original = {" ".join(word for word in words[name] if word not in shared): name for name in words}
    if not shared or len(original) < len(words):
        return None
    found = _tell_splits({short: subfolders[name] for short, name in original.items()})
    if found is None or not found.train or not found.tests:
        return None
    parts = (found.train, found.tests, found.unlabeled, found.others)
    train, tests, unlabeled, others = (tuple(original[short] for short in part) for part in parts)
    return SplitFolders(train, tests, unlabeled, others)


def _tell_splits(subfolders: Mapping[str, Collection[str]]) -> SplitFolders | None:
    train, tests, unlabeled = (list_split_folders(subfolders, kind) for kind in SplitKind)
    others = tuple(sorted(set(subfolders) - {*train, *tests, *unlabeled}))
    folders = SplitFolders(train, tests, unlabeled, others)
    if train and (tests or not others or any(subfolders[name] for name in train)):
        return folders
    if tests and not train and not others:
        return folders
    if are_abbreviations(subfolders) and all(subfolders.values()):
        short = {name: _ABBREVIATIONS.get("".join(_words(name))) for name in others}
        first, second = (
            tuple(sorted(name for name, kind in short.items() if kind is each))
            for each in (SplitKind.train, SplitKind.test)
        )
        return SplitFolders((*train, *first), (*tests, *second), unlabeled)
    # Only what cannot be a class; there are things called extra.
    if others and any(_words(name)[0].startswith(("unlabel", "unsup")) for name in unlabeled):
        return replace(folders, classes_beside=True)
    if tests and not train and set().union(*(subfolders[name] for name in tests)) & set(others):
        return replace(folders, classes_beside=True)
    return None
