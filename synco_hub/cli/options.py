"""What the commands that are no protocol can be told; a protocol's own stands in `synco_hub.settings`.

Nothing here imports torch, so that `--help` answers at once.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

from synco_hub.hub.conversion.layouts import LAYOUTS
from synco_hub.settings import LEAK_CHECK, MODEL_REVISION, DatasetChoice, repeated, same_as, setting


def _check_range(flag: str, value: float | None, least: float, most: float | None = None) -> None:
    if value is None or (value >= least and (most is None or value <= most)):
        return
    rule = f"at least {least}" if most is None else f"a number from {least} to {most}"
    raise ValueError(f"{flag} {value}: give {rule}")


# Models and where results go


@dataclass(frozen=True)
class BackboneOption:
    """The network that a protocol measures."""

    model: str | None = setting(None, "Short name, checkpoint directory, Hub id, or timm:<name>.")
    model_revision: str | None = setting(None, MODEL_REVISION)
    random_network: bool = setting(False, "Measure its architecture with random weights: what is due to no training.")
    leak_check: bool = setting(True, LEAK_CHECK)


@dataclass(frozen=True)
class ClassifierOption:
    """The classifier that a protocol measures."""

    model: str = setting(MISSING, "Output folder of linear-probe or fine-tune, or a classifier on the Hub.")
    model_revision: str | None = setting(None, MODEL_REVISION)
    leak_check: bool = setting(True, LEAK_CHECK)


@dataclass(frozen=True)
class NetworkOption:
    """The network whose cost is measured."""

    model: str | None = setting(None, "As evaluate knn takes it; left out: random weights of --backbone.")
    model_revision: str | None = setting(None, MODEL_REVISION)


@dataclass(frozen=True)
class ResultFile:
    """Where a result goes."""

    output: Path = setting(MISSING, "Where to write the result; what a measurement continues from is kept beside it.")


@dataclass(frozen=True)
class ResultFolder:
    """Where a result of many files goes."""

    output_dir: Path = setting(MISSING, "Gets masks and results; a killed run continues there.")


@dataclass(frozen=True)
class EmbedOptions:
    """Whose features are written, and where."""

    model: str = setting(MISSING, "Short name, checkpoint directory, Hub id, or timm:<name>.")
    model_revision: str | None = setting(None, MODEL_REVISION)
    output: Path = setting(
        Path("embeddings.parquet"),
        "A .parquet file, a folder of several, or an .npy file with the names in a .csv beside it.",
    )
    plot: Path | None = setting(None, "Draw a map, too: .html with the pictures on hover; to look at, no evidence.")
    projection: Literal["pca", "umap"] = setting("pca", "Of the map; umap needs umap-learn.")

    def __post_init__(self) -> None:
        if self.plot is not None and (self.plot.suffix != ".html" or self.output.suffix == ".npy"):
            raise ValueError(f"--plot {self.plot}: give an .html file, beside an --output that is no .npy file.")


@dataclass(frozen=True)
class SearchOptions:
    """Which pictures are looked for, and where."""

    images: list[Path] = setting(MISSING, "Images, or folders of images.", positional=True)
    table: Path = setting(MISSING, "What `synco-hub embed` wrote; its model embeds the pictures too.", spelled="in")
    count: int = setting(5, "Pictures for each.")
    device: str | None = setting(None, "cpu, cuda, …; default: the best there is.")
    output: Path | None = setting(None, "Write the matches as a .csv table, too.")
    figure: Path | None = setting(None, "Draw them, as .png or .pdf.")


@dataclass(frozen=True)
class EvaluateAllOptions:
    """What `evaluate all` measures."""

    model: str = setting(MISSING, "Short name, checkpoint directory, Hub id, or timm:<name>.")
    dataset: list[str] | None = repeated("Data sets, one or several. Default: fractals.")
    output_dir: Path = setting(Path("results"), "One folder a data set, one file a protocol.")
    data_dir: Path | None = setting(None, "Folder of unpacked archives (robustness, ood, …), measured on, too.")
    split_seed: int = same_as(DatasetChoice, "split_seed")
    model_revision: str | None = setting(None, MODEL_REVISION)
    leak_check: bool = setting(True, LEAK_CHECK)


@dataclass(frozen=True)
class AverageOptions:
    """Two checkpoints, and the domains by which the line between them is judged."""

    start: str = setting(MISSING, "The network before: short name, folder, Hub id, or timm:<name>.", positional=True)
    end: str = setting(MISSING, "What was trained from it, such as the folder of a run.", positional=True)
    output: Path = setting(MISSING, "New folder for the recommended weights, average.json, figure and card.")
    dataset: str | None = setting(None, "The new domain, with classes; default: the run's.")
    data_dir: str | None = setting(None, "Folder of the files of --dataset.")
    keep_dataset: str | None = setting(None, "The domain of the start, with classes; default: the run's.")
    keep_data_dir: str | None = setting(None, "Folder of the files of --keep-dataset.")
    split_seed: int = same_as(DatasetChoice, "split_seed")
    num_images: int | None = setting(10_000, "Images of each split at most.")


# Demonstrations and comparisons


@dataclass(frozen=True)
class DemoOptions:
    """What the demonstration trains."""

    method: str = setting("synco-v2", "A method of `synco-hub pretrain --help`.")
    output_dir: Path = setting(Path("synco-demo"), "Folder for the run, its results and the figure.")
    max_steps: int = setting(1000, "Optimizer steps of pretraining.")
    seed: int = setting(0, "Seed of the weights, the order and the views.")


@dataclass(frozen=True)
class RobustnessDemoOptions:
    """What the demonstration of robustness measures."""

    output_dir: Path = setting(Path("synco-robustness-demo"), "Folder for results, table and figure.")
    model: str | None = setting(
        None, "Backbone; default: synco-v2-vit-nano, which ships, or which `synco-hub demo` installed."
    )
    num_images: int = setting(100, "Test images, drawn by seed 0.")
    pretraining_steps: int | None = setting(None, "Pretrain a backbone here, in so many optimizer steps.")


SettingsOfRuns = Literal["demo", "recipe"]
Probe = Literal["none", "cached", "full"]


@dataclass(frozen=True)
class AblateOptions:
    """What an ablation compares."""

    methods: str = setting(
        "moby,byol,synco-v2",
        "Methods or recipes (such as imagenet-100/only-mixup), separated by commas; the first is the one that the "
        "others are compared with, seed by seed.",
    )
    seeds: int = setting(3, "Runs of each, with seeds 0, 1, …")
    max_steps: int = setting(1200, "Optimizer steps of every run; with --equal-time of the first arm's.")
    equal_time: bool = setting(
        False,
        "Every other arm gets the steps that it does in the time of the first one's, by speeds measured before the "
        "runs, --jobs at a time, and kept with the plan.",
    )
    output_dir: Path = setting(Path("ablation"), "Folder for the runs and the tables.")
    metric: str = setting("top1_k10", "Which k-NN accuracy the table shows: top1_k<k>, for any k.")
    probe: Probe = setting(
        "none",
        "Linear probe of every run as a further column: full is the paper's protocol, cached a quick look that is "
        "not.",
    )
    settings: SettingsOfRuns = setting(
        "demo",
        "What runs share: demo is the demonstration's settings, with a recipe's synthesis alone; recipe leaves what "
        "a recipe says, and the paper's numbers.",
    )
    pixels: bool = setting(False, "A row of k-NN on the raw pixels, the floor where images are small.")
    jobs: int = setting(1, "Runs that train at the same time, each a process.")


@dataclass(frozen=True)
class TableOptions:
    """Which results stand in a table."""

    paths: list[Path] = setting(MISSING, "Folders with results, or result files.", positional=True)
    format: Literal["markdown", "csv", "json"] = setting("markdown", "Form of the table.")
    output: Path | None = setting(None, "Write it to this file too.")
    protocol: str | None = setting(None, "Results of this protocol only, such as knn.")
    paper: bool = setting(True, "Add the paper's rows where it has the protocol.")


# Checkpoints


@dataclass(frozen=True)
class ListOptions:
    """How the zoo is listed."""

    as_json: bool = setting(False, "Print rows as JSON.", spelled="json")


@dataclass(frozen=True)
class PullOptions:
    """Which checkpoint is fetched."""

    name: str = setting(MISSING, "Short name of the zoo, or organisation/name on the Hub.", positional=True)
    revision: str | None = setting(None, "Branch, tag or commit; default: the newest.")
    repo: str | None = setting(
        None, "Repository to take a short name from, one that you trust.", spelled="from", metavar="ORG/NAME"
    )


@dataclass(frozen=True)
class PublishOptions:
    """Which checkpoint is published, and where."""

    directory: Path = setting(
        MISSING, "Checkpoint directory of a run or a conversion, or an installed short name.", positional=True
    )
    repo_id: str = setting(MISSING, "organisation/name on the Hub; created if it is not there.")
    private: bool = setting(False, "Create it as a private repository.")
    dry_run: bool = setting(False, "Check and show, send nothing.")
    yes: bool = setting(False, "Do not ask.")


@dataclass(frozen=True)
class PublishSpaceOptions:
    """Where the page is published."""

    repo_id: str | None = setting(None, "organisation/name of the Space; created if it is not there.")
    output: Path | None = setting(None, "Folder to stage it in, and to keep; must be empty.")
    private: bool = setting(False, "Create it as a private Space.")
    dry_run: bool = setting(False, "Stage and show, send nothing.")
    yes: bool = setting(False, "Do not ask.")


@dataclass(frozen=True)
class ConvertOptions:
    """Which checkpoint is converted, and what its file does not say."""

    source: str = setting(
        MISSING,
        "The downloaded .pth, .pt, .tar or .safetensors, a directory or Hub id of a stock ViT or Swin or of timm, or "
        "timm:<name>.",
        positional=True,
    )
    output: Path = setting(MISSING, "Directory to write; it must not exist, or be empty.")
    layout: str = setting("auto", f"auto, {' or '.join(LAYOUTS)}; auto tells it by the keys.")
    backbone: str | None = setting(None, "Short name or timm name of the network; default: by the shapes.")
    num_heads: int | None = setting(
        None, "Attention heads of a ViT, which no shape tells; default: as the layout's own code builds it."
    )
    image_size: int | None = setting(None, "Side of the input in pixels; default: by the shapes.")
    branch: str | None = setting(
        None,
        "online or target, or another copy of the network in the file, such as model_ema; default: the one that the "
        "project itself evaluates (DINO: target).",
    )
    whole_pretraining_state: bool = setting(False, "Keep both networks, heads and queues, to pretrain further.")
    head: str | None = setting(None, "File with a linear classifier for the backbone: gives a classifier.")
    preprocessing: str | None = setting(
        None,
        "Directory, file or Hub id of the image processor, or imagenet; default: the source's own, else ImageNet's.",
    )
    revision: str | None = setting(None, "Branch, tag or commit of a source on the Hub.")

    def __post_init__(self) -> None:
        _check_range("--num-heads", self.num_heads, 1)
        _check_range("--image-size", self.image_size, 1)


@dataclass(frozen=True)
class ExportOptions:
    """Which checkpoint is exported, and how."""

    model: str = setting(MISSING, "Zoo or installed short name, checkpoint directory, or Hub id.", positional=True)
    output: Path = setting(MISSING, "Directory to write; it must not exist, or be empty.")
    format: str = setting(
        "transformers",
        "transformers (stock ViT or Swin), timm, onnx (free batch size), safetensors (timm's names), or "
        "sentence-transformers.",
    )


@dataclass(frozen=True)
class CardOptions:
    """What a card says that no file tells."""

    directory: Path = setting(MISSING, "Checkpoint directory, or an installed short name.", positional=True)
    licence: str | None = setting(
        None, "Licence of the weights, such as apache-2.0; kept for later calls.", aliases=["--license"]
    )
    facts: str | None = setting(
        None, "Short name whose facts hold for these weights, or a YAML file of them; kept for later calls."
    )
    name: str | None = setting(
        None, "What the model is loaded by, organisation/name before publishing; default: the directory's name."
    )


@dataclass(frozen=True)
class CardVerifyOptions:
    """Which card is checked, and on what images."""

    directory: Path = setting(MISSING, "Checkpoint directory with card and results, or short name.", positional=True)
    tolerance: float = setting(0.3, "Difference in percentage points that is no mismatch.")
    dataset: str | None = setting(None, "Folder of the images, where a result's own name does not lead.")
    data_dir: str | None = setting(None, "Folder of the original files, for data sets of the catalog.")

    def __post_init__(self) -> None:
        _check_range("--tolerance", self.tolerance, 0)


# Data


@dataclass(frozen=True)
class DataListOptions:
    """How the data sets are listed."""

    as_json: bool = setting(False, "Print rows as JSON.", spelled="json")
    markdown: bool = setting(False, "Print it as a Markdown table.")


@dataclass(frozen=True)
class DataVerifyOptions:
    """Which data set is compared with the catalog."""

    name: str = setting(MISSING, "A name of `synco-hub data list`.", positional=True)
    as_json: bool = setting(False, "Print the verdict as JSON.", spelled="json")


@dataclass(frozen=True)
class DataPrepareOptions:
    """Which data set is written as parquet files, and how."""

    source: str = setting(
        MISSING, "A name of `synco-hub data list`, a folder, a Hub id, or fractals.", positional=True
    )
    output: Path = setting(MISSING, "New folder for the files, or one in which this command was stopped.")
    shard_size: str = setting("256MB", "Size of a file; a stream reads as many at once as there are.")
    split: list[str] | None = repeated(
        "Splits to write, one or several: train and test, the default, or pretraining, every image of a folder that "
        "lies in no test folder."
    )
    num_workers: int = setting(4, "Threads that read and check images.")
    max_bad_fraction: float = setting(0.01, "Share of images that may be unreadable.")


@dataclass(frozen=True)
class DuplicatesOptions:
    """Which data sets are searched for pictures that are there twice, and how."""

    source: str = setting(MISSING, "A folder, a name of `synco-hub data list`, or a Hub id.", positional=True)
    other: str = setting("", "Another one; then what is in both is looked for.", positional=True)
    output: Path | None = setting(None, "Write all groups as .json.")
    figure: Path | None = setting(None, "Draw the groups, as .png or .pdf; many make further sheets, NAME-2, ….")
    flips: bool = setting(True, "A mirror image is the same picture.")
    model: str | None = setting(None, "Compare what is near by the features of this model, too.")
    model_revision: str | None = setting(None, MODEL_REVISION)
    num_workers: int = setting(4, "Threads that decode and compare.")
    max_bad_fraction: float = setting(0.01, "Share of images that may be unreadable.")
    seed: int = setting(0, "Of the copies by which it is measured how alike copies are.")

    def __post_init__(self) -> None:
        _check_range("--num-workers", self.num_workers, 1)


# Looking


@dataclass(frozen=True)
class AttentionOptions:
    """Which maps are drawn, of which models on which images."""

    model: list[str] = setting(
        MISSING,
        "Zoo or installed short name, checkpoint directory, or Hub id; several are compared.",
        action="extend",
    )
    image: list[Path] = setting(
        MISSING, "JPEG, PNG, WebP, … of any mode and size; several are as many rows.", action="extend"
    )
    model_revision: list[str] | None = repeated(
        "Commit, branch or tag on the Hub, one for each model in their order; '' for none."
    )
    output: Path = setting(Path("attention.png"), "The figure to write: .png or .pdf.")
    kind: list[str] | None = repeated(
        "cls, patch, rollout, cam, saliency, windows, pca (also called tokens) or foreground; several are as many "
        "columns. Without it: what the paper shows, cls and patch of a ViT, cam and saliency of a Swin."
    )
    mass: float | None = setting(None, "Show only the places that hold this share of a map, for example 0.6.")
    detail: int = setting(1, "Times the model's own input size, 1 to 4, positions interpolated.")
    strength: float = setting(1.0, "Share of the map over the image; 1 is the map alone.")
    whole: bool = setting(False, "Pad each image, so that the centre crop of the model's input cuts nothing off.")

    def __post_init__(self) -> None:
        _check_range("--detail", self.detail, 1, 4)
        _check_range("--strength", self.strength, 0, 1)


@dataclass(frozen=True)
class SpaceOptions:
    """Where the page is served, and what it offers."""

    host: str = setting("127.0.0.1", "Address to listen on; 0.0.0.0 lets other computers in.")
    port: int = setting(7860, "Port to listen on; 0 takes a free one.")
    models: list[str] | None = repeated("Models on offer: short names, checkpoint directories or Hub ids.")

    def __post_init__(self) -> None:
        _check_range("--port", self.port, 0, 65535)
