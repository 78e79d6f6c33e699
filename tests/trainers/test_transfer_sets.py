"""Probing, fine-tuning and measuring on the paper's transfer sets, by trees and tables in their real schema."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import invoke
from data_trees.original import write_original
from PIL import Image
from sklearn.metrics import average_precision_score
from transformers import ViTConfig, ViTImageProcessor, ViTModel
from transformers.modeling_outputs import ImageClassifierOutput

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.data.class_lists import read_class_list
from synco_hub.evaluation.classification import evaluate_classification
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, ForwardSettings
from trainers import fine_tune, linear_probe

QUIET = ForwardSettings(num_workers=0, progress=False)
QUICK = (
    "--use-cpu --dataloader-num-workers 0 --disable-tqdm true --per-device-train-batch-size 8 --num-train-epochs 2 "
    "--logging-steps 1"
).split()
SETS = ["cifar10", "oxford-pets", "voc2007"]


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The paper's two backbones at reduced sizes, and a ViT of transformers."""
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    ours = {
        "deit-s": SynCoConfig(backbone="deit-s", image_size=32, depth=2),
        "swin-t": SynCoConfig(backbone="swin-t", image_size=64, window_size=2, depth=[1, 1, 1, 1]),
    }
    for name, config in ours.items():
        SynCoModel(config).save_pretrained(root / name)
        image_processor(config.image_size).save_pretrained(root / name)
    stock = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    ViTModel(stock, add_pooling_layer=False).save_pretrained(root / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(root / "vit")
    return {name: root / name for name in (*ours, "vit")}


def png(grey: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (grey, grey, grey)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_table(name: str, root: Path) -> Path:
    """A folder of parquet files as the Hub copy has them; VOC has no copy, so a row of 0 and 1 as webdatasets have."""
    import datasets

    rng = np.random.default_rng(3)
    labels = {
        "cifar10": {"img": None, "label": datasets.ClassLabel(names=list(read_class_list("cifar10")))},
        "oxford-pets": {
            "image": None,
            "label": datasets.ClassLabel(names=[each.lower() for each in read_class_list("oxford_pets")]),
            "image_id": datasets.Value("string"),
            "label_cat_dog": datasets.ClassLabel(names=["cat", "dog"]),
        },
        "voc2007": {"image": None, "classes": datasets.Sequence(datasets.Value("int64"))},
    }[name]
    for split, count in (("train", 12), ("test", 8)):
        columns: dict[str, list[Any]] = {}
        for column, kind in labels.items():
            if kind is None:
                columns[column] = [png(int(grey)) for grey in rng.integers(0, 256, count)]
            elif isinstance(kind, datasets.ClassLabel):
                columns[column] = rng.integers(0, kind.num_classes, count).tolist()
            elif name == "voc2007":
                columns[column] = [sorted({row % 20, int(rng.integers(20))}) for row in range(count)]
            else:
                columns[column] = [f"image {row}" for row in range(count)]
        features = datasets.Features({key: kind or datasets.Image() for key, kind in labels.items()})
        stored = "trainval" if (name, split) == ("voc2007", "train") else split
        (root / "data").mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_dict(columns, features=features)
        table.to_parquet(root / "data" / f"{stored}-00000-of-00001.parquet")
    return root


def run_all(model: Path, name: str, data: Path, output: Path, *columns: str) -> dict[str, EvaluationResult]:
    """Every command on one model and one set."""
    flags = ["--dataset", name, "--data-dir", str(data), *columns]
    common = ["--model", str(model), *flags]
    linear_probe.main([*QUICK, *common, "--output-dir", str(output / "probe"), "--learning-rates", "0.5", "1.0"])
    fine_tune.main([*QUICK, *common, "--output-dir", str(output / "tuned")])
    results = {
        "probe": EvaluationResult.load(output / "probe/linear_probe.json"),
        "tuned": EvaluationResult.load(output / "tuned/fine_tune.json"),
    }
    quick = ["--num-workers", "0", "--device", "cpu", *flags]
    for protocol, measured in (
        ("knn", model),
        ("classification", output / "probe"),
        ("classification", output / "tuned"),
    ):
        file = output / f"{measured.name}-{protocol}.json"
        command = ["evaluate", protocol, "--model", str(measured), "--output", str(file), *quick]
        run = invoke(command)
        assert run.exit_code == 0, (run.output, run.exception)
        results[file.stem] = EvaluationResult.load(file)
    return results


def check(results: dict[str, EvaluationResult], name: str) -> None:
    """The classifiers that were saved have the numbers that their training reported."""
    primary = "map_11_point" if name == "voc2007" else "top1"
    for trained in ("probe", "tuned"):
        again = results[f"{trained}-classification"]
        assert again.metrics[primary] == pytest.approx(results[trained].metrics[f"{primary}_last_epoch"], abs=1e-3)
        assert again.dataset.fingerprint == results[trained].dataset.fingerprint
    if name == "voc2007":
        assert "top1" not in results["probe-classification"].metrics
        assert results["probe"].protocol.parameters["loss"] == "binary cross-entropy"
    else:
        assert "mean_per_class" in results["probe-classification"].metrics


@pytest.mark.parametrize("name", ["cifar10", pytest.param("oxford-pets", marks=pytest.mark.slow), "voc2007"])
def test_a_stock_vit_on_original_files(name: str, models: dict[str, Path], tmp_path: Path):
    tree = write_original(name, tmp_path / "files", seed=1)
    check(run_all(models["vit"], name, tree.root, tmp_path), name)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("backbone", ["deit-s", "swin-t"])
@pytest.mark.slow
def test_the_papers_backbones_on_original_files(name: str, backbone: str, models: dict[str, Path], tmp_path: Path):
    tree = write_original(name, tmp_path / "files", seed=2)
    check(run_all(models[backbone], name, tree.root, tmp_path), name)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.slow
def test_a_stock_vit_on_the_hubs_schema(name: str, models: dict[str, Path], tmp_path: Path):
    columns = ["--label-column", "classes"] if name == "voc2007" else []
    data = write_table(name, tmp_path / "table")
    check(run_all(models["vit"], name, data, tmp_path, *columns), name)


class Planted(torch.nn.Module):
    """Logits that a fixed matrix makes of the mean colour: every image has others."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = torch.nn.Parameter(torch.randn(20, 3, generator=generator))
        self.bias = torch.nn.Parameter(torch.randn(20, generator=generator))

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        colour = torch.sin(9 * pixel_values.mean(dim=(2, 3)))
        return ImageClassifierOutput(logits=colour @ self.weight.T + self.bias)


@pytest.mark.parametrize("seed", range(3))
def test_eleven_points_without_the_difficult_of_planted_scores(seed: int, tmp_path: Path):
    tree = write_original("voc2007", tmp_path, seed)
    images = load_dataset(DatasetChoice("voc2007", data_dir=str(tmp_path)), "test")
    dataset = EvaluationDataset(images, EvaluationTransform(8, 8))
    model = Planted()
    planted = EvaluatedModel(model, None, "planted", read_class_list("voc2007"))
    found = evaluate_classification(planted, dataset, QUIET)
    pixels = torch.stack([dataset[index]["pixel_values"] for index in range(len(dataset))])
    scores = model(pixels).logits.detach().double().numpy()
    targets = np.array(tree.labels["test"])
    assert (targets == -1).any()
    eleven, integral = [], []
    for column in range(20):
        kept = targets[:, column] != -1
        score, target = scores[kept, column], targets[kept, column]
        integral.append(average_precision_score(target, score))
        order = np.argsort(-score, kind="stable")
        recall = np.cumsum(target[order]) / target.sum()
        precision = np.cumsum(target[order]) / np.arange(1, len(order) + 1)
        eleven.append(sum(precision[recall >= step / 10 - 1e-12].max(initial=0.0) for step in range(11)) / 11)
    assert found.metrics["map_11_point"] == pytest.approx(100 * np.mean(eleven), abs=1e-5)
    assert found.metrics["map_integral"] == pytest.approx(100 * np.mean(integral), abs=1e-5)


def test_difficult_images_counted_as_absent_would_be_another_number(tmp_path: Path):
    write_original("voc2007", tmp_path, 1)
    images = load_dataset(DatasetChoice("voc2007", data_dir=str(tmp_path)), "test")
    dataset = EvaluationDataset(images, EvaluationTransform(8, 8))
    planted = EvaluatedModel(Planted(), None, "planted", read_class_list("voc2007"))
    ignored = evaluate_classification(planted, dataset, QUIET)
    assert images.multi_hot is not None
    images.multi_hot = np.maximum(images.multi_hot, 0)
    counted = evaluate_classification(planted, dataset, QUIET)
    assert ignored.metrics["map_11_point"] != counted.metrics["map_11_point"]
