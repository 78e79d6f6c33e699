"""`evaluate segmentation`: against slow votes and known answers, on pictures whose masks are known."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from composed_pictures import draw_cut_outs, draw_photographs, write_pictures
from matplotlib.figure import Figure
from PIL import Image
from torch.nn import functional as F

import synco_hub
from synco_hub.data.segmentation import load_masked_images
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.patch_labels import PatchLook, PatchMemory
from synco_hub.evaluation.segmentation import (
    evaluate_segmentation,
    format_table,
    retrieve_labels,
    train_linear_heads,
)
from synco_hub.metrics import class_iou, segmentation_confusion
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult
from synco_hub.settings import DatasetChoice, SegmentationSettings

QUIET = {"device": "cpu", "progress": False}
FAST = {**QUIET, "steps": 60, "learning_rate": [1e-2, 1e-3]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for split, count, seed in (("train", 12, 0), ("test", 5, 1)):
        write_pictures(folder, split, count, draw_photographs(), draw_cut_outs(), 64, seed)
    (folder / "classes.txt").write_text("photograph\nred disc\nblue triangle\n")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano", depth=1)).save_pretrained(folder)
    image_processor(32).save_pretrained(folder)
    return folder


@pytest.fixture
def loaded(model):
    return EvaluatedModel(SynCoModel.from_pretrained(model), image_processor(32), "model")


@pytest.mark.parametrize("probe", ["linear", "knn"])
def test_colours_are_told_apart_by_either_probe_from_the_file_to_the_table(probe, model, pictures, tmp_path):
    choice = {"dataset": pictures, "probe": probe, "side": 64, **(FAST if probe == "linear" else QUIET)}
    result = synco_hub.evaluate("segmentation", model, output=tmp_path / "s.json", **choice)
    names = ["miou", "miou_without_class_0", "pixel_accuracy", "mean_class_accuracy"]
    assert list(result.metrics) == [*names, "iou_photograph", "iou_red_disc", "iou_blue_triangle"]
    assert result.metrics["miou"] > 60
    assert result.metrics["miou"] == pytest.approx(np.mean([v for n, v in result.metrics.items() if n[:4] == "iou_"]))
    assert EvaluationResult.load(tmp_path / "s.json").metrics == result.metrics
    assert (result.dataset.count, result.training_dataset.count, result.dataset.num_classes) == (5, 12, 3)
    facts = result.protocol.parameters
    assert facts["memory_bytes"] == facts["memory_patches"] * (96 + 3) * 2
    if probe == "linear":
        assert facts["learning_rate"] in (1e-2, 1e-3)
        assert facts["held_out_images"] == 1
        assert set(facts["held_out_miou"]) == {"0.01", "0.001"}
    first, second, *_ = format_table(result).splitlines()
    assert first.startswith(f"{probe} probe on 5 images")
    assert "shorter side 64 pixels (--side), patches of 8" in second
    assert ("best on 1 held-out images" in second) is (probe == "linear")
    again = synco_hub.evaluate("segmentation", model, **choice)
    assert again.metrics == result.metrics


def test_metrics_are_those_of_the_masks_that_were_saved(loaded, pictures, tmp_path):
    train, test = load_masked_images(DatasetChoice(str(pictures)))
    settings = SegmentationSettings("knn", side=48, stride=24, save_masks=str(tmp_path / "masks"), **QUIET)
    result = evaluate_segmentation(loaded, train, test, settings)
    total = torch.zeros(3, 3, dtype=torch.int64)
    for index, name in enumerate(test.names):
        predicted = torch.from_numpy(np.array(Image.open(tmp_path / "masks" / f"{name}.png")))
        total += segmentation_confusion(predicted, torch.from_numpy(test.read(index)[1]), 3)
    wanted = 100 * class_iou(total)
    assert [value for name, value in result.metrics.items() if name[:4] == "iou_"] == pytest.approx(wanted.tolist())
    assert result.metrics["pixel_accuracy"] == pytest.approx(100 * float(total.diagonal().sum() / total.sum()))
    assert result.protocol.parameters["window_stride"] == 24


def test_votes_are_a_softmax_over_the_nearest():
    generator = torch.Generator().manual_seed(0)
    bank, queries = torch.randn(40, 6, generator=generator), torch.randn(9, 6, generator=generator)
    labels = torch.rand(40, 3, generator=generator)
    found = retrieve_labels(bank, labels, queries, 5, 0.1)
    for query, scores in zip(queries, found, strict=True):
        similar = [float(F.cosine_similarity(query, other, dim=0)) for other in bank]
        nearest = sorted(range(40), key=lambda index: -similar[index])[:5]
        weights = np.exp([similar[index] / 0.1 for index in nearest])
        wanted = sum(w * labels[index] for w, index in zip(weights / weights.sum(), nearest, strict=True))
        torch.testing.assert_close(scores, wanted.float(), rtol=1e-4, atol=1e-5)


def test_heads_of_several_rates_are_those_of_each_alone():
    generator = torch.Generator().manual_seed(1)
    classes = torch.randint(0, 3, (200,), generator=generator)
    values = F.one_hot(classes, 3).float() @ torch.randn(3, 8, generator=generator) + 3
    memory = PatchMemory(
        (values + 0.1 * torch.randn(200, 8, generator=generator)).half(), F.one_hot(classes, 3).half()
    )
    together = train_linear_heads(memory, [1e-2, 1e-4], 30, seed=2)
    for rate, head in zip((1e-2, 1e-4), together, strict=True):
        (alone,) = train_linear_heads(memory, [rate], 30, seed=2)
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(head.state_dict()[name], value)
    assert (together[0](memory.values.float()).argmax(dim=1) == classes).all()


def test_a_figure_shows_several_models_side_by_side(model, loaded, pictures, tmp_path):
    train, test = load_masked_images(DatasetChoice(str(pictures)))
    first = SegmentationSettings("knn", side=32, save_masks=str(tmp_path / "first model"), **QUIET)
    evaluate_segmentation(loaded, train, test, first)
    figure = tmp_path / "figure.png"
    choice = {"dataset": pictures, "probe": "knn", "figure": figure, "figure_images": 2, **QUIET}
    synco_hub.evaluate("segmentation", model, beside=[tmp_path / "first model"], **choice)
    with Image.open(figure) as drawn:
        assert drawn.width > drawn.height * 1.2  # four columns, two rows
    with pytest.raises(ValueError, match="beside is about the figure"):
        SegmentationSettings(beside=["a"])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "give folders that --save-masks wrote"),
        (np.zeros((8, 9), dtype=np.uint8), r"first.*\.png is 9x8, its image 64x64"),
        (np.full((64, 64), 7, dtype=np.uint8), r"first.*\.png has the value 7, but there are 3 classes"),
    ],
)
def test_a_folder_beside_that_does_not_fit_is_refused_before_anything_is_measured(
    mask, message, model, pictures, tmp_path
):
    (tmp_path / "first").mkdir()
    _, test = load_masked_images(DatasetChoice(str(pictures)))
    if mask is not None:
        for name in test.names:
            Image.fromarray(mask).save(tmp_path / "first" / f"{name}.png")
    written = {"save_masks": tmp_path / "masks", "figure": tmp_path / "figure.png", "output": tmp_path / "s.json"}
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        synco_hub.evaluate(
            "segmentation", model, dataset=pictures, probe="knn", beside=[tmp_path / "first"], **written, **QUIET
        )
    assert not any(tmp_path.glob("masks/**/*.png"))


def test_folders_of_one_name_are_told_apart(loaded, pictures, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        "synco_hub.evaluation.segmentation.mask_figure",
        lambda images, columns, names: titles.extend(column.title for column in columns) or Figure(),
    )
    train, test = load_masked_images(DatasetChoice(str(pictures)))
    folders = [str(tmp_path / name) for name in ("a/masks", "b/masks", "c")]
    for folder in folders:
        settings = SegmentationSettings("knn", side=32, save_masks=folder, **QUIET)
        evaluate_segmentation(loaded, train, test, settings)
    figure = SegmentationSettings("knn", side=32, figure=str(tmp_path / "f.png"), beside=folders, **QUIET)
    evaluate_segmentation(loaded, train, test, figure)
    assert titles == ["Truth", "model, knn", *folders[:2], "c"]


def test_saved_masks_are_numbered_as_the_data_sets(loaded, pictures, tmp_path, monkeypatch):
    """Numbered from 1, with 0 for no class: what the data set calls 1 is 1 in the file, and columns beside agree."""
    drawn = []
    monkeypatch.setattr(
        "synco_hub.evaluation.segmentation.mask_figure",
        lambda images, columns, names: drawn.extend(column.masks for column in columns) or Figure(),
    )
    train, test = load_masked_images(DatasetChoice(str(pictures)), num_classes=2, zero_is_void=True)
    settings = SegmentationSettings("knn", side=64, save_masks=str(tmp_path / "masks"), **QUIET)
    result = evaluate_segmentation(loaded, train, test, settings)
    right = seen = 0
    for name in test.names:
        truth, predicted = (
            np.array(Image.open(folder / f"{name}.png"))
            for folder in (pictures / "masks" / "test", tmp_path / "masks")
        )
        assert set(np.unique(predicted)) <= {1, 2}
        right += int((truth == predicted)[truth > 0].sum())
        seen += int((truth > 0).sum())
    assert result.metrics["pixel_accuracy"] == pytest.approx(100 * right / seen)
    assert right > 0.8 * seen
    figure = SegmentationSettings(
        "knn", side=64, figure=str(tmp_path / "f.png"), beside=[str(tmp_path / "masks")], **QUIET
    )
    evaluate_segmentation(loaded, train, test, figure)
    _, own, beside = drawn
    assert len(own) == 4
    assert all(torch.equal(mask.to(torch.uint8), other) for mask, other in zip(own, beside, strict=True))


@pytest.fixture
def looks(monkeypatch):
    """Blocks of few images, and a count of images that were looked at, after so many of which comes a kill."""
    monkeypatch.setattr("synco_hub.evaluation.patch_labels._BLOCK", 5)
    monkeypatch.setattr("synco_hub.evaluation.segmentation._BLOCK", 2)
    real, counted = PatchLook.features, SimpleNamespace(seen=0, last=10**9)

    def features(look, image):
        counted.seen += 1
        if counted.seen > counted.last:
            raise KeyboardInterrupt
        return real(look, image)

    monkeypatch.setattr(PatchLook, "features", features)
    return counted


# Of 12 training and 5 test images; the linear probe holds one of the 12 out.
@pytest.mark.parametrize(
    ("probe", "killed_after", "left"),
    [
        *[("knn", 0, 17), ("knn", 7, 12), ("knn", 10, 7), ("knn", 13, 5), ("knn", 16, 1)],
        *[("linear", 6, 12), ("linear", 11, 6), ("linear", 12, 5), ("linear", 14, 3)],
    ],
)
def test_a_killed_measurement_goes_on_to_the_same_numbers(
    probe, killed_after, left, looks, loaded, pictures, tmp_path
):
    train, test = load_masked_images(DatasetChoice(str(pictures)))
    chosen = {"probe": probe, "memory_size": 301, "seed": 3, **(FAST if probe == "linear" else QUIET)}
    whole = evaluate_segmentation(loaded, train, test, SegmentationSettings(**chosen, save_masks=str(tmp_path / "a")))
    settings = SegmentationSettings(**chosen, save_masks=str(tmp_path / "b"))
    looks.seen, looks.last = 0, 1 + killed_after  # an empty image comes first
    with pytest.raises(KeyboardInterrupt):
        evaluate_segmentation(loaded, train, test, settings, tmp_path / "parts")
    looks.seen, looks.last = 0, 10**9
    again = evaluate_segmentation(loaded, train, test, settings, tmp_path / "parts")
    assert looks.seen == 1 + left
    assert again.metrics == whole.metrics
    assert again.protocol == whole.protocol
    for name in test.names:
        assert (tmp_path / "b" / f"{name}.png").read_bytes() == (tmp_path / "a" / f"{name}.png").read_bytes()


def test_parts_of_other_settings_images_or_masks_are_not_taken(looks, loaded, pictures, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(pictures, folder)

    def measure(**changed):
        train, test = load_masked_images(DatasetChoice(str(folder)))
        settings = SegmentationSettings(**{"probe": "knn", "side": 48, **QUIET, **changed})
        wanted = evaluate_segmentation(loaded, train, test, replace(settings, save_masks=None, figure=None))
        looks.seen = 0
        assert evaluate_segmentation(loaded, train, test, settings, tmp_path / "parts").metrics == wanted.metrics
        return looks.seen - 1

    assert measure() == 17
    assert measure() == 0
    assert measure(save_masks=str(tmp_path / "masks")) == 5
    assert measure(save_masks=str(tmp_path / "masks")) == 0
    next((tmp_path / "masks").iterdir()).write_bytes(b"")
    assert measure(save_masks=str(tmp_path / "masks")) in (1, 2)  # a block's
    assert measure(figure=str(tmp_path / "figure.png"), figure_images=3) == 3
    assert measure(temperature=0.5) == 17
    # The sixth training image begins the second of three blocks; what is drawn of the third depends on it.
    changed = sorted((folder / "images" / "train").iterdir())[5]
    Image.fromarray(255 - np.array(Image.open(changed))).save(changed)
    assert measure(temperature=0.5) == 12
    changed = sorted((folder / "masks" / "test").iterdir())[0]
    Image.fromarray(np.zeros_like(Image.open(changed))).save(changed)
    assert measure(temperature=0.5) == 2
    loaded.network.backbone.norm.weight.data[3] += 1
    assert measure(temperature=0.5) == 17


def test_parts_go_when_the_result_is_written(looks, model, pictures, tmp_path):
    choice = {"dataset": pictures, "probe": "knn", "output": tmp_path / "s.json", **QUIET}
    looks.last = 9
    with pytest.raises(KeyboardInterrupt):
        synco_hub.evaluate("segmentation", model, **choice)
    assert [each.name for each in tmp_path.iterdir()] == ["s.parts"]
    looks.last = 10**9
    synco_hub.evaluate("segmentation", model, **choice)
    assert [each.name for each in tmp_path.iterdir()] == ["s.json"]
    (tmp_path / "s.parts").mkdir()
    (tmp_path / "s.parts" / "thesis.txt").write_text("of another")
    with pytest.raises(ValueError, match=r"s\.parts' is not empty and holds no measurement\.json"):
        synco_hub.evaluate("segmentation", model, **choice)
    assert (tmp_path / "s.parts" / "thesis.txt").exists()


def test_classes_that_are_nowhere_are_named_and_do_not_count(loaded, pictures):
    train, test = load_masked_images(DatasetChoice(str(pictures)), num_classes=6)
    result = evaluate_segmentation(loaded, train, test, SegmentationSettings("knn", **QUIET))
    three = evaluate_segmentation(
        loaded, *load_masked_images(DatasetChoice(str(pictures))), SegmentationSettings("knn", **QUIET)
    )
    assert result.metrics["miou"] == three.metrics["miou"]
    assert result.notes == ("neither masks nor predictions have 3, 4, 5",)
    assert three.notes == ()
    assert json.loads(result.to_json())["dataset"]["num_classes"] == 6


def test_what_cannot_be_measured_is_said_in_a_line(loaded, pictures):
    train, test = load_masked_images(DatasetChoice(str(pictures)))
    with pytest.raises(ValueError, match="has 1 training image: the linear probe holds some out"):
        evaluate_segmentation(loaded, train.take([0]), test, SegmentationSettings(**FAST))
    few = load_masked_images(DatasetChoice(str(pictures)), num_classes=2)
    with pytest.raises(ValueError, match="has the value 2, but there are 2 classes"):
        evaluate_segmentation(loaded, *few, SegmentationSettings("knn", **QUIET))
    loaded.network.backbone.norm.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite: check the checkpoint"):
        evaluate_segmentation(loaded, train, test, SegmentationSettings("knn", **QUIET))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"probe": "forest"}, "probe='forest' is unknown"),
        ({"memory_size": 0}, "memory_size=0 is not positive"),
        ({"temperature": 0.0}, "temperature="),
        ({"learning_rate": [1e-3, -1.0]}, "learning_rate="),
        ({"num_classes": 300}, "num_classes=300 is too many"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        SegmentationSettings(**values)
