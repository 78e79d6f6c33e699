"""What the catalog says about one data set of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

TABLE_9_KEYS = ("classes", "train", "test")


class Metric(StrEnum):
    """What is measured on the test split. Source: paper, sections 7 and 8; the transfer sets as ssl-transfer does."""

    top_1 = "top-1 accuracy"
    mean_per_class = "mean per-class accuracy"
    average_precision = "11-point mean average precision"
    top_1_of_200 = "top-1 accuracy among 200 classes"
    corruptions = "mean top-1 accuracy over 15 corruptions and 5 severities"
    false_positives = "false positive rate at 95 % recall"


class Layout(StrEnum):
    """How the package can read a set's files from a folder.

    `split_folders`: `train/<class>/` beside `val/<class>/` or `test/<class>/`. `class_folders`: every image is of the
    test split, and its class is the folder it lies in. `draw`: class folders that a seed divides, with a fixed number
    of training images per class. `other`: files of the set's authors say which image is of which split and class, and
    `synco_hub.data.original.READERS` has who reads them, or there are no files of its own.
    """

    split_folders = "split folders"
    class_folders = "class folders"
    draw = "seeded draw"
    other = "other"


@dataclass(frozen=True)
class DatasetRow:
    """One row of the catalog.

    Attributes:
        name: What the user types.
        title: How the paper names it.
        splits: Our `train` and `test` to the stored splits that make them up.
        counts: Images of `train` and `test`, of the stored or built set.
        num_classes: Number of classes of the stored or built set.
        metric: What is measured on it.
        original_files: The original files as their archives unpack them.
        folders: What those folders are called, where several sets lie in one folder.
        dataset_id: `namespace/name` on the Hub; None where the Hub has no complete copy.
        revision: Commit on the Hub, where one is known to fit.
        config: Configuration on the Hub.
        image_column: None takes the only column of images.
        label_column: None takes the only column of classes.
        is_table: Whether the `datasets` library reads the Hub copy; some hold archives only.
        layout: How a folder of the set's files is read.
        class_list: Vendored list of wnids that the labels follow.
        known_names: Names of classes by label, to recognise another order: a vendored list, or some of them.
        per_class: Smallest and largest number of images of a class in a split, where every copy has the same.
        base: The set whose images it is drawn from, where it has none of its own.
        in_table_9: Whether Table 9 of the paper lists it.
        printed: Entries of Table 9 (`classes`, `train`, `test`) that are not the counts above.
        difference: Why Table 9 or the Hub copy has other numbers; empty where all agree.
        gated: Whether a licence must be accepted on the Hub first.
        licence: Licence or terms of the images; where none is known for certain, to see its source.
        notes: What else trips people.
    """

    name: str
    title: str
    splits: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, int]
    num_classes: int
    metric: Metric
    original_files: str
    folders: tuple[str, ...] = ()
    dataset_id: str | None = None
    revision: str | None = None
    config: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    is_table: bool = True
    layout: Layout = Layout.other
    class_list: str | None = None
    known_names: str | Mapping[int, str] = ""
    per_class: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    base: str | None = None
    in_table_9: bool = False
    printed: Mapping[str, int] = field(default_factory=dict)
    difference: str = ""
    gated: bool = False
    licence: str = "not confirmed: see the set's own page"
    notes: str = ""

    @property
    def has_table(self) -> bool:
        """Whether there is a copy on the Hub that the `datasets` library reads."""
        return self.dataset_id is not None and self.is_table

    @property
    def table_9(self) -> dict[str, int] | None:
        """The numbers that Table 9 prints: `classes`, `train`, `test`; None for sets that it does not list."""
        if not self.in_table_9:
            return None
        ours = {"classes": self.num_classes, **self.counts}
        return {key: self.printed.get(key, ours[key]) for key in TABLE_9_KEYS}
