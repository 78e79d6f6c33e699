"""`synco-hub evaluate all`: on every data set and archive what model and data allow, each result saved at once."""

import numpy as np
import pytest
import torch
from command_line import invoke
from PIL import Image

from synco_hub.cli import evaluate
from synco_hub.cli.evaluate import PUBLISHED, evaluate_all, plan_measurements, print_end
from synco_hub.cli.options import EvaluateAllOptions
from synco_hub.data import load_dataset
from synco_hub.data.davis import write_mask
from synco_hub.hub.loading import LinearHead, save_classifier
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.protocols import EVALUATORS
from synco_hub.results import DataSource, EvaluationResult, ModelSource, ProtocolFacts
from synco_hub.settings import ForwardSettings

DATA = "fractals:num_classes=3,train_images_per_class=5,test_images_per_class=2"
QUIET = ForwardSettings(batch_size=8, num_workers=0, device="cpu", progress=False)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1, patch_size=16)).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def archives(tmp_path):
    """One good archive (a band that stands still for three frames) and one that is empty."""
    root = tmp_path / "archives" / "DAVIS"
    images, masks = (root / kind / "480p" / "band" for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    mask = np.zeros((48, 48), dtype=np.uint8)
    mask[:, :24] = 1
    for frame in range(3):
        colours = np.array([[20, 40, 200], [220, 180, 10]], dtype=np.uint8)[mask]
        Image.fromarray(colours).save(images / f"{frame:05d}.jpg", quality=100, subsampling=0)
        write_mask(masks / f"{frame:05d}.png", mask)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("band\n")
    (tmp_path / "archives" / "VOCdevkit").mkdir()
    return tmp_path / "archives"


def test_a_classifier_is_measured_by_every_protocol(tmp_path, capsys):
    names = load_dataset(DATA, "test", image_size=32).class_names
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    head = LinearHead(torch.randn(3, network.config.hidden_size), torch.zeros(3), names)
    save_classifier(tmp_path / "run", "mine", network, image_processor(32), head)
    evaluate_all(EvaluateAllOptions(str(tmp_path / "run"), [DATA], tmp_path / "out"), QUIET)
    files = sorted((tmp_path / "out").rglob("*.json"))
    assert [file.name for file in files] == ["classification.json", "knn.json"]
    assert [EvaluationResult.load(file).protocol.name for file in files] == ["classification", "knn"]
    said = capsys.readouterr().out
    assert "### knn" in said
    assert "paper, Table 12" in said


def test_a_classifier_of_other_classes_is_passed_over(tmp_path, capsys):
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    head = LinearHead(torch.randn(2, network.config.hidden_size), torch.zeros(2), ["a", "b"])
    save_classifier(tmp_path / "run", "mine", network, image_processor(32), head)
    evaluate_all(EvaluateAllOptions(str(tmp_path / "run"), [DATA], tmp_path / "out"), QUIET)
    assert "skipped classification on fractals" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "out").rglob("*.json")] == ["knn.json"]


def test_images_without_classes_are_passed_over(model, tmp_path, capsys):
    for split in ("train", "test"):
        for index in range(3):
            path = tmp_path / "bare" / split / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (80 * index, 0, 0)).save(path)
    evaluate_all(EvaluateAllOptions(model, [str(tmp_path / "bare"), DATA], tmp_path / "out"), QUIET)
    said = capsys.readouterr().out
    assert f"skipped knn on {tmp_path / 'bare'}: " in said
    assert "needs a class for every image" in said


def test_nothing_measurable_is_an_error_with_reasons(tmp_path):
    with pytest.raises(ValueError, match="nothing could be measured: knn on nowhere: "):
        evaluate_all(EvaluateAllOptions("nothing", ["nowhere"], tmp_path / "out"), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", [ConnectionError("the Hub cannot be reached"), RuntimeError("a bug")])
def test_what_fails_ends_only_itself_and_the_command_in_the_end(model, tmp_path, monkeypatch, capsys, fault):
    measure = evaluate.measure

    def failing(protocol, name, data, settings, output):
        if data.dataset == "imagenet-a":
            raise fault
        return measure(protocol, name, data, settings, output)

    monkeypatch.setattr(evaluate, "measure", failing)
    with pytest.raises(ValueError, match="2 of 4 measurements failed: knn on imagenet-a: ") as caught:
        evaluate_all(EvaluateAllOptions(model, ["imagenet-a", DATA], tmp_path / "out"), QUIET)
    assert str(fault) in str(caught.value)
    assert ("RuntimeError: a bug" in str(caught.value)) is isinstance(fault, RuntimeError)
    assert "### knn" in capsys.readouterr().out
    assert [file.name for file in (tmp_path / "out").rglob("*.json")] == ["knn.json"]


def test_archives_that_are_there_are_measured_and_what_is_missing_is_said(model, archives, tmp_path):
    flags = ["--model", model, "--dataset", DATA, "--output-dir", tmp_path / "out", "--data-dir", archives]
    done = invoke(["evaluate", "all", *flags, "--num-workers", "0", "--device", "cpu"])
    result = EvaluationResult.load(tmp_path / "out" / "davis" / "video-segmentation.json")
    assert result.metrics["j_mean"] > 90  # two colours, and nothing moves
    assert "jf_mean" in done.output
    assert "### knn" in done.output
    assert "skipped robustness: no imagenet-c or imagenet-a" in done.output
    # Its archive is there and damaged.
    assert done.exit_code == 1
    assert "1 of 4 measurements failed: discovery on voc2007: " in str(done.exception)
    assert not (tmp_path / "out" / "discovery.json").exists()


def test_every_published_set_goes_where_its_protocol_reads_it(tmp_path):
    for row in PUBLISHED:
        (tmp_path / "in" / row.folders[-1]).mkdir(parents=True)
    options = EvaluateAllOptions("m", [], tmp_path / "out", tmp_path / "in")
    planned, absent = plan_measurements(options)
    assert absent == []
    own = planned[len(planned) - len(PUBLISHED) :]
    assert [each.protocol for each in own] == [row.protocol for row in PUBLISHED]
    for each, row in zip(own, PUBLISHED, strict=True):
        assert {"data_dir"} <= set(EVALUATORS[row.protocol].data)
        assert each.data.data_dir == str(tmp_path / "in" / ("DAVIS" if row.inside else ""))
        assert each.output.is_relative_to(tmp_path / "out")
    assert len({each.output for each in planned}) == len(planned)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        plan_measurements(EvaluateAllOptions("any", None, tmp_path / "out", tmp_path / "nowhere"))


def test_no_data_set_leads_out_of_the_output_folder(tmp_path):
    for dataset in ("../../x", "/etc/x", "fractals:num_classes=3,image_size=64"):
        planned, _ = plan_measurements(EvaluateAllOptions("m", [dataset], tmp_path / "out"))
        assert all(each.output.resolve().parent.parent == tmp_path / "out" for each in planned)


def ended(capsys, **settings):
    result = EvaluationResult(
        {"top1": 50.0}, ModelSource("m"), DataSource("d", "test", 2), ProtocolFacts("knn"), **settings
    )
    print_end(result, "r.json")
    return capsys.readouterr().out.splitlines()


def test_notes_and_skipped_files_come_before_the_place(capsys):
    assert ended(capsys) == ["wrote r.json"]
    lines = ended(capsys, notes=("a note",), skipped_files=tuple(f"{index}.png" for index in range(12)))
    names = ", ".join(f"{index}.png" for index in range(10))
    assert lines == ["  a note", f"  skipped 12 unreadable files: {names}", "wrote r.json"]
