"""Every row of the catalog through the command line, on small trees as the archives unpack."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from command_line import invoke
from data_trees.original import WRITERS, imagenet, put, write_original

from synco_hub.data.catalog.sets import CATALOG
from synco_hub.data.class_lists import read_class_list
from synco_hub.data.corruptions import _watermark
from synco_hub.data.subsets import LINES
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    return folder


def measured(model: Path, output: Path, *flags: str) -> EvaluationResult:
    quick = ["--num-workers", "0", "--device", "cpu", "--k", "3", "--output", str(output)]
    run = invoke(["evaluate", "knn", "--model", str(model), *quick, *flags])
    assert run.exit_code == 0, (run.output, run.exception)
    return EvaluationResult.load(output)


# The draw of Caltech-101 needs more than 3,000 images.
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name == "caltech101" else []) for name in WRITERS]
)
def test_knn_on_original_files(name: str, model: Path, tmp_path: Path):
    tree, row = write_original(name, tmp_path / "files"), CATALOG[name]
    flags = ["--dataset", name, "--data-dir", str(tree.root)]
    if "train" not in row.splits:
        # The bank of a set of 200 classes is ImageNet's images of those classes.
        imagenet(tmp_path / "bank", 1, read_class_list(row.class_list))
        stranger = "n01440764"  # a class that some of the sets have not
        put(tmp_path / f"bank/train/{stranger}/{stranger}_5.JPEG", next(tmp_path.glob("bank/train/*/*")).read_bytes())
        flags += ["--train-dataset", "imagenet-1k", "--train-data-dir", str(tmp_path / "bank")]
    result = measured(model, tmp_path / "results.json", *flags)
    assert (result.dataset.name, result.dataset.split) == (name, "test")
    assert (result.dataset.count, result.dataset.num_classes) == (len(tree.labels["test"]), row.num_classes)
    primary = "map_11_point_k3" if name == "voc2007" else "top1_k3"
    assert 0 <= result.metrics[primary] <= 100


def test_a_set_of_test_images_only_asks_for_a_bank(model: Path, tmp_path: Path):
    tree = write_original("imagenet-a", tmp_path)
    flags = ["--model", str(model), "--dataset", "imagenet-a", "--data-dir", str(tree.root)]
    run = invoke(["evaluate", "knn", *flags])
    assert run.exit_code == 1
    assert "--train-dataset" in str(run.exception)


@pytest.mark.parametrize("percent", [1, 10])
@pytest.mark.parametrize("by_fraction", [False, True])
def test_low_shot_lists(percent: int, by_fraction: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = write_original("imagenet-1k", tmp_path / "files")
    names = sorted(path.name for path in (tree.root / "train").rglob("*.JPEG"))[1:5]
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(LINES, percent, len(names))
    put(tmp_path / f"home/data/imagenet_subsets/{percent}percent.txt", "\n".join(names))
    name = f"imagenet-{percent}pct"
    flags = ["--dataset", name]
    if by_fraction:
        name, flags = "imagenet-1k", ["--dataset", "imagenet-1k", "--train-fraction", str(percent / 100)]
    result = measured(model, tmp_path / "results.json", *flags, "--data-dir", str(tree.root))
    assert (result.training_dataset.count, result.dataset.count) == (4, len(tree.labels["test"]))
    assert f"list {percent}percent.txt" in result.training_dataset.description
    assert result.dataset.name == name


def test_the_watermark(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []

    class AddWatermark:
        def __init__(self, image_size: int) -> None:
            assert image_size == 32

        def __call__(self, view: torch.Tensor) -> torch.Tensor:
            drawn.append(view)
            return view

    monkeypatch.setitem(sys.modules, "imagenet_w", SimpleNamespace(AddWatermark=AddWatermark))
    _watermark.cache_clear()
    tree = write_original("imagenet-1k", tmp_path / "files")
    flags = ["--dataset", "imagenet-w", "--data-dir", str(tree.root)]
    bank = ["--train-dataset", "imagenet-1k", "--train-data-dir", str(tree.root)]
    result = measured(model, tmp_path / "results.json", *flags, *bank)
    assert (len(drawn), result.dataset.name) == (len(tree.labels["test"]), "imagenet-w")
    _watermark.cache_clear()


def test_every_row_is_measured_here():
    low_shot = {"imagenet-1pct", "imagenet-10pct"}
    assert {*WRITERS, *low_shot, "imagenet-w", "fractals"} == set(CATALOG)


def test_saved_features_keep_several_classes_an_image(model: Path, tmp_path: Path):
    tree = write_original("voc2007", tmp_path / "files")
    flags = ["--dataset", "voc2007", "--data-dir", str(tree.root), "--save-features", str(tmp_path / "features")]
    first = measured(model, tmp_path / "first.json", *flags)
    again = invoke(
        [
            *"evaluate knn --k 3 --device cpu --features".split(),
            *(str(tmp_path / "features"), "--output", str(tmp_path / "again.json")),
        ],
    )
    assert again.exit_code == 0, again.exception
    assert EvaluationResult.load(tmp_path / "again.json").metrics == first.metrics
