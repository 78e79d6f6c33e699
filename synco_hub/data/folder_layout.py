"""How a folder of images is laid out: which of its folders are splits, and which image has which class."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from synco_hub.data.folder_files import FolderFiles, list_subfolders
from synco_hub.data.folder_metadata import read_metadata
from synco_hub.data.folder_splits import SplitFolders, find_split_folders, find_split_kind, is_filler

logger = logging.getLogger(__name__)


@cache
def warn_once(message: str) -> None:
    """Both splits of a folder are opened by one command, which need not say everything twice."""
    logger.warning("%s", message)


def warn_of_others(folder: Path, files: FolderFiles) -> None:
    """Says which files in a folder are no images."""
    if files.others:
        number = files.others.total()
        said = "1 file is" if number == 1 else f"{number} files are"
        warn_once(f"{folder}: {said} not read: {files.describe_others()}.")


def say_untrained_classes(where: str, names: Sequence[str]) -> None:
    """Warns of classes of test images that no training image has."""
    if names:
        some = f"{', '.join(sorted(names)[:5])}{' …' if len(names) > 5 else ''}"
        warn_once(f"{where}: {len(names)} classes have no training image ({some}).")


def printable(name: str) -> str:
    """A name that any file and terminal takes: a byte that is no UTF-8 becomes a backslash, x and two digits."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class FolderLayout:
    """What was found in a folder of images.

    Attributes:
        root: The folder that was given.
        files: Everything below it.
        base: Where its splits or classes lie: "", or one folder that holds all images, with a `/`.
        splits: Its split folders, if there are any.
        class_of: Class of each image by its path below the root; None for those without.
        class_names: Of training and test images together, so that a class has one number in both.
    """

    root: Path
    files: FolderFiles
    base: str
    splits: SplitFolders | None
    class_of: Mapping[str, str | None]
    class_names: Sequence[str]

    def place(self, *folders: str) -> Path:
        """Where the images of one folder of the base lie, or those of several together."""
        inside = self.base + (folders[0] if len(folders) == 1 else "")
        return self.root / inside if inside else self.root

    def labeled(self, names: Sequence[str], *folders: str) -> list[str]:
        """Those with a class; all where none has one."""
        kept = [name for name in names if self.class_of[name] is not None]
        if kept and len(kept) < len(names):
            why = "have no class in the metadata" if self.files.metadata else "lie outside the class folders"
            warn_once(f"{self.place(*folders)}: {len(names) - len(kept)} images {why} and are left out.")
        return kept or list(names)


def read_layout(root: Path, label_column: str | None = None) -> FolderLayout:
    """Walks a folder once, and says what lies there that is not read."""
    files = FolderFiles.of(root)
    if label_column is not None and not files.metadata:
        raise ValueError(
            f"--label-column {label_column} says nothing of data set {str(root)!r}, since it is a folder of image "
            "files without metadata.csv or metadata.jsonl: leave it out."
        )
    if files.images:
        warn_of_others(root, files)
    base, splits, _ = _find_base(root, files.images)
    class_of: dict[str, str | None] = dict.fromkeys(files.images)
    parts = [base] if splits is None else [f"{base}{name}/" for name in (*splits.train, *splits.tests)]
    if splits is not None and splits.classes_beside:
        parts += [f"{base}{name}/" for name in splits.others]
    members = {part: below(files.images, part) for part in parts}
    by_folder = _find_classes_by_folder(members, base, splits)
    metadata = read_metadata(root, files.metadata, label_column)
    for problem in metadata.problems:
        warn_once(problem)
    is_named = False
    for names in members.values():
        if any(name in metadata.classes for name in names):
            is_named = True
            class_of |= {name: metadata.classes.get(name) for name in names}
        else:
            class_of |= {name: by_folder.get(name) for name in names}
    if lost := len(metadata.classes.keys() - class_of.keys()):
        warn_once(f"{root}: {lost} images of the metadata are not there, or of a kind that is not read.")
    layout = FolderLayout(root, files, base, splits, class_of, ())
    return replace(layout, class_names=_list_classes(layout, is_named))


def _list_classes(layout: FolderLayout, by_metadata: bool) -> list[str]:
    """Sorted; whole numbers of the metadata by their value."""
    splits, names = layout.splits, layout.files.images
    if splits is not None and splits.tests:
        chosen, _ = choose_test_folder(layout, splits)
        unused = tuple(f"{layout.base}{name}/" for name in splits.tests if name != chosen)
        names = [name for name in names if not name.startswith(unused)]
    found = {name for path in names if (name := layout.class_of[path]) is not None}
    return sorted(found, key=int) if by_metadata and all(map(str.isdecimal, found)) else sorted(found)


def below(names: Iterable[str], *prefixes: str) -> list[str]:
    """The paths that begin with one of some prefixes."""
    return [name for name in names if name.startswith(prefixes)]


def _group(names: Iterable[str], prefix: str) -> tuple[dict[str, set[str]], bool]:
    """Folders directly below a prefix, each with the folders in it, and whether images lie there too."""
    folders: dict[str, set[str]] = {}
    loose = False
    for name in below(names, prefix):
        first, *rest = name[len(prefix) :].split("/", 2)
        loose |= not rest
        if rest:
            folders.setdefault(first, set()).update(rest[:-1])
    return folders, loose


def _find_base(root: Path, names: Sequence[str], base: str = "") -> tuple[str, SplitFolders | None, bool]:
    """Where splits or classes lie, the splits, and whether they are no mere images.

    They are in the folder, or in the one folder that holds all its images, however deep.
    """
    folders, loose = _group(names, base)
    # A split folder without an image is one too, and an error of its own.
    for name in list_subfolders(root / base):
        if find_split_kind(name) is not None:
            folders.setdefault(name, set())
    splits = find_split_folders(folders)
    if splits is not None or loose or len(folders) != 1:
        return base, splits, splits is not None or (len(folders) > 1 and not loose)
    (only,) = folders
    inner, inner_splits, is_sure = _find_base(root, names, f"{base}{only}/")
    return (inner, inner_splits, True) if is_sure or is_filler(only) else (base, None, False)


def _find_classes_by_folder(
    members: Mapping[str, Sequence[str]], base: str, splits: SplitFolders | None
) -> dict[str, str]:
    """The first folder below its part is an image's class; one that holds the whole part (`train/images/`) is none."""
    inside = dict.fromkeys(members, "")
    first_folders: set[str] = set()
    for part, names in members.items():
        folders, loose = _group(names, part)
        only = next(iter(folders), "")
        # Unpacked archives hold one folder of their own name.
        is_part = is_filler(only) or find_split_kind(only) or part.endswith(f"/{only}/") or part == f"{only}/"
        if splits is not None and len(folders) == 1 and not loose and is_part:
            inside[part] = f"{only}/"
        else:
            first_folders |= set(folders)
    # Where one part has classes photo and sketch, another that has photo alone has a class too.
    inside = {part: "" if folder[:-1] in first_folders else folder for part, folder in inside.items()}
    beside = set() if splits is None or not splits.classes_beside else set(splits.others)
    class_of = {}
    for part, names in members.items():
        begin = len(part) + len(inside[part])
        for name in names:
            first, *rest = name[begin:].split("/", 1)
            if (above := part[len(base) : -1]) in beside:
                class_of[name] = above
            elif rest:
                class_of[name] = sys.intern(first)
    return class_of


def choose_test_folder(layout: FolderLayout, splits: SplitFolders) -> tuple[str, str]:
    """The test folder with classes of the training images, else with any: official test images often have none."""

    def classes(names: Sequence[str]) -> set[str]:
        found = {layout.class_of[name] for name in names}
        return {name for name in found if name is not None}

    trained = classes(list_training_images(layout, splits))
    of_test = {name: classes(below(layout.files.images, f"{layout.base}{name}/")) for name in splits.tests}
    chosen = next((name for name in splits.tests if of_test[name] & trained), None)
    chosen = chosen or next((name for name in splits.tests if of_test[name]), splits.tests[0])
    return chosen, say_test_folder(chosen, splits.tests)


def say_test_folder(chosen: str, tests: Sequence[str]) -> str:
    """Which folder is the test split, and which were not taken."""
    others = ", ".join(f"{name}/" for name in tests if name != chosen)
    return f"folder {chosen}/ for test" + (f" ({others} unused)" if others else "")


def list_training_images(layout: FolderLayout, splits: SplitFolders) -> list[str]:
    """The images of all training folders."""
    folders = splits.others if splits.classes_beside else splits.train
    return below(layout.files.images, *(f"{layout.base}{each}/" for each in folders)) if folders else []
