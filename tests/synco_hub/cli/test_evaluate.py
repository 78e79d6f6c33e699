import json

import pytest
import torch
from command_line import invoke
from PIL import Image

from synco_hub.models import SynCoConfig, SynCoModel, image_processor

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 210)}


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def folder(tmp_path):
    """Three classes that are a colour each: any network tells them apart."""
    generator = torch.Generator().manual_seed(1)
    for split, count in (("train", 12), ("val", 4)):
        for name, colour in COLOURS.items():
            for index in range(count):
                noise = torch.randint(-20, 20, (40, 40, 3), generator=generator)
                pixels = (torch.tensor(colour) + noise).clamp(0, 255).to(torch.uint8).numpy()
                path = tmp_path / "data" / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def evaluate(model, folder, output, *flags: str):
    arguments = ["--model", model, "--dataset", str(folder), "--output", str(output), "--num-workers", "0"]
    return invoke(["evaluate", "knn", *arguments, *flags])


def test_colours_are_told_apart_and_the_result_says_how(model, folder, tmp_path):
    output = tmp_path / "results.json"
    result = evaluate(model, folder, output)
    assert result.exit_code == 0, result.output
    data = json.loads(output.read_text())
    assert data["metrics"]["top1_k10"] == 100.0
    assert "top1_k100" not in data["metrics"]
    assert any("k=100" in note for note in data["notes"])
    assert data["dataset"]["count"] == 12
    assert data["training_dataset"]["count"] == 36
    assert data["skipped_files"] == []


def test_a_broken_image_is_skipped_and_named(model, folder, tmp_path):
    (folder / "val" / "red" / "0.png").write_bytes(b"\x89PNG broken")
    assert evaluate(model, folder, tmp_path / "strict.json").exit_code == 1
    assert not (tmp_path / "strict.json").exists()
    result = evaluate(model, folder, tmp_path / "lenient.json", "--max-bad-fraction", "0.1")
    data = json.loads((tmp_path / "lenient.json").read_text())
    assert result.exit_code == 0
    assert data["dataset"]["count"] == 11
    assert len(data["skipped_files"]) == 1


@pytest.mark.parametrize(
    ("flags", "code", "named"),
    [
        (["--k", "37"], 1, "k=37"),
        (["--dataset", "nowhere/at/all"], 1, "nowhere"),
        (["--batch-size", "0"], 2, "batch_size=0: a batch holds at least 1"),
    ],
)
def test_bad_input_writes_nothing(model, folder, tmp_path, flags, code, named):
    result = evaluate(model, folder, tmp_path / "results.json", *flags)
    assert result.exit_code == code
    assert named in str(result.exception)
    assert not (tmp_path / "results.json").exists()


def test_kept_features_give_the_same_numbers_without_the_model(model, folder, tmp_path):
    first = evaluate(model, folder, tmp_path / "first.json", "--save-features", str(tmp_path / "features"))
    assert first.exit_code == 0, first.output
    assert "feature: [CLS] token after the final norm; images: resize 37 bicubic, centre crop 32" in first.output
    again = invoke(
        ["evaluate", "knn", "--features", str(tmp_path / "features"), "--output", str(tmp_path / "again.json")],
    )
    assert again.exit_code == 0, again.output
    results = [json.loads((tmp_path / name).read_text()) for name in ("first.json", "again.json")]
    for key in ("metrics", "model", "dataset", "training_dataset", "preprocessing", "protocol"):
        assert results[0][key] == results[1][key]
    (tmp_path / "features" / "test.safetensors").unlink()
    missing = invoke(["evaluate", "knn", "--features", str(tmp_path / "features")])
    assert "--save-features" in str(missing.exception)


def test_the_way_of_computing_changes_no_number(model, folder, tmp_path):
    results = []
    for number, flags in enumerate(([], ["--num-processes", "2"], ["--batch-size", "5"])):
        done = evaluate(model, folder, tmp_path / f"{number}.json", *flags)
        assert done.exit_code == 0, done.output
        results.append(json.loads((tmp_path / f"{number}.json").read_text()))
    for key in ("metrics", "protocol", "preprocessing"):
        assert results[0][key] == results[1][key] == results[2][key]


@pytest.mark.parametrize("flags", [["--precision", "int8"], ["--batch-size", "auto"], ["--batch-size", "many"]])
def test_a_flag_of_another_kind_is_a_usage_error(model, folder, tmp_path, flags):
    assert evaluate(model, folder, tmp_path / "results.json", *flags).exit_code == 2
    assert not (tmp_path / "results.json").exists()


def test_low_shot_bank_is_stated(model, folder, tmp_path):
    done = evaluate(model, folder, tmp_path / "r.json", "--train-fraction", "0.25")
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["training_dataset"]["count"] == 9
    assert "0.25 of each class drawn with seed 0, 9 of 36" in data["training_dataset"]["description"]


def test_a_classifier_is_measured_and_other_classes_are_refused(folder, tmp_path):
    from synco_hub.hub.loading import LinearHead, save_classifier

    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    head = LinearHead(torch.randn(3, network.config.hidden_size), torch.zeros(3), ["blue", "green", "red"])
    save_classifier(tmp_path / "head", "mine", network, image_processor(32), head)
    flags = ["--model", str(tmp_path / "head"), "--num-workers", "0", "--output", str(tmp_path / "c.json")]
    done = invoke(["evaluate", "classification", *flags, "--dataset", str(folder)])
    assert done.exit_code == 0, done.output
    data = json.loads((tmp_path / "c.json").read_text())
    assert set(data["metrics"]) == {"top1", "mean_per_class"}
    other = invoke(
        ["evaluate", "classification", *flags, "--dataset", "fractals:num_classes=4,test_images_per_class=2"]
    )
    assert "the head has 3 classes, the data set 4" in str(other.exception)


def test_all_measures_what_it_can_says_what_does_not_apply_and_fails_for_what_is_not_there(model, folder, tmp_path):
    flags = ["--model", model, "--num-workers", "0", "--output-dir", str(tmp_path / "all")]
    done = invoke(["evaluate", "all", *flags, "--dataset", str(folder)])
    assert done.exit_code == 0, done.output
    assert "skipped classification" in done.output
    assert "has no trained classifier" in done.output
    assert "SynCo-v2 DeiT-S" in done.output
    assert len(list((tmp_path / "all").rglob("knn.json"))) == 1
    done = invoke(["evaluate", "all", *flags, "--dataset", "nowhere/at/all", str(folder)])
    assert done.exit_code == 1
    assert "1 of 4 measurements failed: knn on nowhere/at/all: " in str(done.exception)
    assert "SynCo-v2 DeiT-S" in done.output  # what could be measured stands in the table
