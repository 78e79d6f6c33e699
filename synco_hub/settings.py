"""What a user can choose for a measurement: which images, how they go through a network, and each protocol's own.

Flags of commands, arguments of `synco_hub.evaluate` and fields of the trainers' arguments are made of these classes;
the help of each stands here once. Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

DEFAULT_MAX_BAD_FRACTION = 0.01
Precision = Literal["fp32", "bf16", "fp16"]
EmbeddedVectors = Literal["feature", "cls", "mean", "patches"]
StoredType = Literal["float32", "float16"]
LEAK_CHECK = "Look for test images among those that the model was pretrained on, as far as its run has kept of which."
MODEL_REVISION = "Commit, branch or tag of the model on the Hub; default: the newest."


def setting(default: Any, help: str, **flag: Any) -> Any:
    """A field with the help of its flag; what is True or False becomes a flag without a value."""
    switch = {"switch": True} if isinstance(default, bool) else {}
    return field(default=default, metadata={"help": help, **switch, **flag})


def same_as(kind: type, name: str) -> Any:
    """A field that is another class's, default and help alike."""
    original = kind.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field(default=original.default, metadata=original.metadata)


def check_choice(name: str, value: object, kind: object) -> None:
    """Refuse a value that the literal type `kind` does not list; flags are refused by the parser already."""
    if value not in get_args(kind):
        raise ValueError(f"{name}={value!r} is unknown: use one of {', '.join(get_args(kind))}")


def repeated(help: str, **flag: Any) -> Any:
    """A field of several values: `--name a b` and `--name a --name b` both give them; None where nothing is given."""
    return setting(None, help, action="extend", **flag)


@dataclass(frozen=True)
class DatasetChoice:
    """Which images: what every command, every trainer and Python callers name a data set by.

    Attributes:
        dataset: `fractals` (drawn here, with settings if wanted: `fractals:num_classes=20,image_size=64`), a folder of
            images or tables, a name of the catalog, or a Hub id.
        data_dir: Folder with the original files of a name of the catalog; for a Hub id a folder in the repository.
        dataset_id: Another copy on the Hub of a name of the catalog.
        config: Configuration of a Hub data set; of imagenet-c one cell, such as `fog/3`.
        revision: Commit, branch or tag of a Hub data set.
        image_column: Column of a table; None finds it by its type.
        label_column: Column of a table; None finds it by its type.
        value_range: Values of black and white in images of more than 8 bits, such as `0,4095`; `each` takes every
            image by its type and own values, as version 0.1 did; None takes what the files state, else what fits some
            of the images.
        split_seed: Draws the test images of a folder that has none.
    """

    dataset: str = setting("fractals", "fractals, a folder, a name of `synco-hub data list`, or a Hub id.")
    data_dir: str | None = setting(None, "Folder of the data set's original files.")
    dataset_id: str | None = setting(None, "Another copy on the Hub, for a name of `synco-hub data list`.")
    config: str | None = setting(None, "Configuration of the data set on the Hub.")
    revision: str | None = setting(None, "Commit, branch or tag of the data set on the Hub.")
    image_column: str | None = setting(None, "Column of the images, where it is not obvious.")
    label_column: str | None = setting(None, "Column of the labels, where it is not obvious.")
    value_range: str | None = setting(
        None, "Black and white of images of more than 8 bits, such as 0,4095, or each; default: measured."
    )
    split_seed: int = setting(0, "Seed of the 80/20 split of a folder without test images.")

    def __post_init__(self) -> None:
        for name in ("dataset", "data_dir"):
            if isinstance(getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(getattr(self, name)))
        if self.dataset == "":
            raise ValueError(
                "dataset='' names no images: give fractals, a folder, a name of the catalog, or a Hub id."
            )


@dataclass(frozen=True)
class ForwardSettings:
    """How images go through a network; nothing here changes what is measured.

    Attributes:
        batch_size: Images a forward pass.
        num_workers: Processes that decode images; 0 decodes in this one.
        device: Where the network runs; None for where it is (commands: the best there is). It is put back afterwards.
        max_bad_fraction: Largest share of images that may be unreadable.
        progress: Show a progress bar with rate and remaining time.
    """

    batch_size: int = setting(128, "Images per forward.")
    num_workers: int = setting(2, "Processes that decode images.")
    device: str | None = setting(None, "cpu, cuda, …; default: the best there is.")
    max_bad_fraction: float = setting(DEFAULT_MAX_BAD_FRACTION, "Share of images that may be unreadable.")
    progress: bool = setting(True, "Show a progress bar.", flag=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size}: a batch holds at least 1 image")
        if self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers}: choose 0 (this process decodes) or more")


@dataclass(frozen=True)
class ExtractionSettings(ForwardSettings):
    """How features are computed.

    Attributes:
        precision: Arithmetic of the network under autocast; fp32 is that of the weights.
        num_processes: Processes that share the images; a GPU each where there are.
    """

    precision: Precision = setting(
        "fp32", "Arithmetic of the network: bf16 and fp16 round features, and are noted; what follows is in fp32."
    )
    num_processes: int = setting(1, "Processes that share the images; a GPU each on cuda.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("precision", self.precision, Precision)
        if self.num_processes < 1:
            raise ValueError(f"num_processes={self.num_processes}: give at least 1")


@dataclass(frozen=True)
class EmbeddingSettings(ExtractionSettings):
    """Which vectors of which images `embed` writes."""

    split: str = setting("all", "train, test, or all: every image, of a folder also those in no split.")
    what: EmbeddedVectors = setting(
        "feature",
        "feature: that of k-NN ([CLS] of a ViT, mean of a Swin's map); cls; mean: of the patch tokens; patches: all "
        "of them, a list of vectors an image.",
    )
    dtype: StoredType = setting("float32", "Of the stored numbers; float16 halves the file.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("what", self.what, EmbeddedVectors)
        check_choice("dtype", self.dtype, StoredType)


@dataclass(frozen=True)
class KnnSettings(ExtractionSettings):
    """k-nearest neighbours (section 8.1)."""

    k: list[int] | None = repeated("Neighbours; several are measured at once. Default: 10 20 100 200.")
    train_fraction: float | None = setting(None, "Low-shot: share of each class in the bank, 0.01 or 0.1.")
    train_list: str | None = setting(None, "Low-shot: file with the names of the bank's images.")
    train_dataset: str | None = setting(None, "Bank for a set of test images only, such as imagenet-1k.")
    train_data_dir: str | None = setting(None, "Folder of the original files of --train-dataset.")
    save_features: str | None = setting(None, "Folder to keep the features of both splits in.", writes="folder")
    features: str | None = setting(None, "Folder of --save-features: vote again without the model.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.k, int):
            object.__setattr__(self, "k", [self.k])


@dataclass(frozen=True)
class LogisticSettings(ExtractionSettings):
    """Logistic regression on frozen features."""

    strength: list[float] | None = repeated(
        "Inverse penalties to choose from on held-out training images. Default: 0.01 0.1 1 10 100 1000."
    )
    shots: list[int] | None = repeated("Few-shot: images of each class; several are measured one after the other.")
    draws: int = setting(5, "Few-shot: how often they are drawn.")
    seed: int = setting(0, "Seed of the held-out and the drawn images.")
    figure: str | None = setting(None, "Draw confidence against accuracy, as .png or .pdf.", writes=(".png", ".pdf"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"draws={self.draws}: draw at least once")
        if any(each <= 0 for each in self.strength or ()):
            raise ValueError(f"strength={self.strength}: an inverse penalty is above 0")


@dataclass(frozen=True)
class ClassificationSettings(ForwardSettings):
    """Accuracy of a trained classifier (sections 7.5, 7.6)."""


@dataclass(frozen=True)
class RobustnessSettings(ForwardSettings):
    """Accuracy on shifted and corrupted images (section 8.2)."""

    num_workers: int = setting(0, "Processes that decode and corrupt images.")
    sets: str | None = setting(
        None,
        "imagenet, imagenet-v2-mf, imagenet-v2-t0.7, imagenet-v2-ti, imagenet-c, imagenet-a, imagenet-w, "
        "imagenet-sketch, imagenet-r: some with commas between, or all. Default: those that lie in --data-dir.",
    )
    on_the_fly: bool = setting(False, "Corrupt the test images of --dataset instead; not ImageNet-C.")
    num_images: int | None = setting(None, "With --on-the-fly: this many images, drawn by --seed.")
    corruptions: str | None = setting(None, "Only these corruptions, with commas between; no mean then.")
    seed: int = setting(0, "Seed of corruptions and of the drawn images.")


@dataclass(frozen=True)
class OutOfDistributionSettings(ForwardSettings):
    """Detection of images of unknown classes (section 8.2)."""

    num_workers: int = setting(0, "Processes that decode images.")
    in_dataset: str | None = setting(None, "Instead: known images (their test split), as --dataset takes.")
    out_dataset: str | None = setting(None, "Unknown images: any folder of images, or a data set's test.")
    bank_dataset: str | None = setting(
        None, "For the neighbour score: known training images; with --in-dataset its training split."
    )
    neighbour: int = setting(50, "Which nearest neighbour counts; Sun et al. take 50 to 1000.")


@dataclass(frozen=True)
class AdversarialSettings(ForwardSettings):
    """Accuracy under attack (section 8.3)."""

    batch_size: int = setting(50, "Images per batch; another one draws other random numbers.")
    num_workers: int = setting(0, "Processes that decode images.")
    attacks: str = setting(
        "all", "fgsm, pgd, cw, square, autoattack, tifgsm, one_pixel: some with commas between, or all."
    )
    num_images: int | None = setting(None, "Attack this many test images, drawn by --seed; default: all.")
    epsilon: str | None = setting(None, "Another ℓ∞ bound than 8/255, such as 4/255, where there is one.")
    seed: int = setting(0, "Seed of the attacks and of the drawn images.")


@dataclass(frozen=True)
class RetrievalSettings:
    """Revisited Oxford and Paris."""

    max_side: int = setting(1024, "Longest side of an image in pixels; 1024 keeps the benchmark's files.")
    scale: list[float] | None = repeated("Factors of the scales. Default: 1, 1/√2, 1/2.")
    crop_queries: bool = setting(True, "See only the query's box, as the official protocol does.")
    save_features: str | None = setting(
        None, "Folder to keep features in; a killed run continues there.", writes="folder"
    )
    num_workers: int = setting(2, "Processes that decode images.")
    device: str | None = setting(None, "cpu, cuda, …; default: the best there is.")
    progress: bool = setting(True, "Show a progress bar.", flag=False)


@dataclass(frozen=True)
class VideoSegmentationSettings:
    """DAVIS 2017 by label propagation."""

    split: str = setting("val", "List of ImageSets/2017: val or train.")
    stage: int | None = setting(None, "Stage of a Swin, from 1. Default: the one with 16-pixel patches.")
    short_side: int = setting(480, "Shorter side of a frame in pixels.")
    num_previous: int = setting(7, "Frames before the present one that give labels, beside the first.")
    topk: int = setting(5, "Patches that give labels.")
    radius: int = setting(12, "Patches around a place from which labels come; 0 for no limit.")
    temperature: float = setting(0.1, "Of the weights.")
    device: str | None = setting(None, "cpu, cuda, …; default: the best there is.")
    progress: bool = setting(True, "Show a progress bar.", flag=False)

    def __post_init__(self) -> None:
        if self.short_side < 1:
            raise ValueError(f"short_side={self.short_side} is not positive: DAVIS's is 480")


DiscoveryMethod = Literal["lost", "tokencut"]


@dataclass(frozen=True)
class DiscoverySettings:
    """One box an image by LOST or TokenCut (section 9.5)."""

    method: DiscoveryMethod = setting("lost", "How the box is found.")
    split: str = setting("trainval", "List of ImageSets/Main.")
    num_images: int | None = setting(None, "Only the first images; the result is then partial.")
    max_side: int | None = setting(None, "Longest side of an image in pixels. Default: its own.")
    save_boxes: str | None = setting(None, "Folder to keep boxes in; a killed run continues there.", writes="folder")
    figure: str | None = setting(None, "Draw found and annotated boxes to this .png or .pdf.", writes=(".png", ".pdf"))
    figure_images: int = setting(12, "Images of the figure, spread over the split.")
    device: str | None = setting(None, "cpu, cuda, …; default: the best there is.")
    progress: bool = setting(True, "Show a progress bar.", flag=False)

    def __post_init__(self) -> None:
        check_choice("method", self.method, DiscoveryMethod)
        for name in ("max_side", "num_images", "figure_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not positive: give at least 1, or leave it out")


SegmentationProbe = Literal["linear", "knn"]


@dataclass(frozen=True)
class SegmentationSettings:
    """Classes of pixels from frozen patch features."""

    probe: SegmentationProbe = setting("linear", "A linear layer on patches, or retrieval of patch labels.")
    side: int | None = setting(None, "Shorter side of an image in pixels. Default: the model's own.")
    stride: int | None = setting(
        None, "Pixels between square windows of --side that slide over the image. Default: the whole image at once."
    )
    stage: int | None = setting(None, "Stage of a Swin, from 1. Default: the one with 16-pixel patches.")
    num_classes: int | None = setting(None, "Classes of a folder or table. Default: classes.txt, else as masks have.")
    zero_is_void: bool = setting(False, "Masks number classes from 1, and 0 is none of them, as ADE20K's.")
    memory_size: int = setting(1_000_000, "Training patches that are kept, drawn from all images alike.")
    learning_rate: list[float] | None = repeated(
        "Of the linear layer; several are trained at once. Default: 1e-4 3e-4 1e-3 3e-3 1e-2."
    )
    steps: int = setting(2000, "Steps of the linear layer, on 4,096 patches each.")
    neighbours: int = setting(30, "Patches that vote for a class.")
    temperature: float = setting(0.02, "Of the votes.")
    seed: int = setting(0, "Draws patches, held-out images and the linear layer.")
    save_masks: str | None = setting(
        None, "Folder for the predicted masks, numbered as the data set's.", writes="folder"
    )
    figure: str | None = setting(None, "Draw images, masks and predictions to this file.", writes=(".png", ".pdf"))
    figure_images: int = setting(4, "Images of the figure, spread over the test split.")
    beside: list[str] | None = repeated("Folders of --save-masks of other models, drawn beside in the figure.")
    device: str | None = setting(None, "cpu, cuda, …; default: the best there is.")
    progress: bool = setting(True, "Show a progress bar.", flag=False)

    def __post_init__(self) -> None:
        check_choice("probe", self.probe, SegmentationProbe)
        for name in ("side", "stride", "num_classes", "memory_size", "steps", "neighbours", "figure_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not positive: give at least 1, or leave it out")
        for name, values in (("temperature", [self.temperature]), ("learning_rate", self.learning_rate or [])):
            if any(value <= 0 for value in values):
                raise ValueError(f"{name}={values} is not positive: give a number above 0")
        if self.num_classes is not None and self.num_classes > 255:
            raise ValueError(f"num_classes={self.num_classes} is too many: a mask's values are 0 to 254, 255 is none")
        if self.beside is not None and self.figure is None:
            raise ValueError("beside is about the figure: give figure too, or leave it out")


@dataclass(frozen=True)
class EfficiencySettings:
    """What a network costs to use and to train (Tables 10, 15)."""

    backbone: str | None = setting(None, "Backbone of the network without --model. Default: deit-s.")
    methods: str | None = setting(
        None,
        "Methods whose training steps of this network are timed, separated by commas; '' for none. Default: synco-v2, "
        "with --model none.",
    )
    batch_size: int = setting(64, "Images of a forward pass and of a training step.")
    processes: int = setting(1, "Devices that share an epoch in the extrapolation.")
    repeats: int = setting(10, "Timed batches and steps; the median counts.")
    precision: Precision = setting("fp32", "Arithmetic of the network.")
    device: str | None = setting(None, "cpu, cuda, …; default: the best there is.")
    progress: bool = setting(True, "Show a progress bar.", flag=False)

    def __post_init__(self) -> None:
        check_choice("precision", self.precision, Precision)
        for name in ("batch_size", "repeats", "processes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive: give at least 1.")
