"""`synco-hub evaluate` of one protocol, as a user calls it."""

import numpy as np
import pytest
from command_line import invoke
from PIL import Image

from synco_hub.data.class_lists import read_class_list
from synco_hub.results import EvaluationResult


@pytest.fixture
def command(monkeypatch, planted):
    monkeypatch.setattr(
        "synco_hub.hub.loading.load_classifier",
        lambda name: (planted.classifier, planted.processor, planted.names),
    )

    def run(*flags):
        return invoke(["evaluate", "ood", "--model", "planted", "--device", "cpu", *map(str, flags)])

    return run


@pytest.fixture
def root(tmp_path, planted):
    """Known images: a class of the 200 gets the highest logit. Unknown ones: a class outside, so the 200 are tied."""
    place = {name: index for index, name in enumerate(planted.names)}
    outside = next(name for name in planted.names if name not in read_class_list("imagenet_o"))
    for wnid in read_class_list("imagenet_o"):
        planted.write(tmp_path / "imagenet" / "val" / wnid / "a.JPEG", place[wnid])
    for number, wnid in enumerate(read_class_list("imagenet_o")[:40]):
        # An eighth of the unknown images is taken for a known class.
        planted.write(tmp_path / "imagenet-o" / wnid / "a.jpg", place[wnid] if number % 8 == 0 else place[outside])
    planted.write(tmp_path / "imagenet" / "val" / outside / "a.JPEG", 0)
    return tmp_path


def test_planted_detection(command, root):
    done = command("--data-dir", root, "--output", root / "ood.json")
    assert done.exit_code == 0, done.output
    result = EvaluationResult.load(root / "ood.json", "ood")
    assert result.dataset.count == 40
    assert result.training_dataset.count == 200
    measured = result.metrics
    # 35 of 40 are below every known image, 5 tie with all of them: ½ of an eighth.
    assert measured["auroc_msp"] == pytest.approx(100 * (0.875 + 0.125 / 2))
    # A recall of 1 is nearer to 0.95 than 0.875 is, and its threshold takes every known image.
    assert measured["fpr95_msp"] == 100.0
    assert measured["fpr95_known_positive_msp"] == pytest.approx(12.5)
    assert measured["tied_share_msp"] == 100.0
    # Among all classes every image is equally sure.
    assert measured["auroc_msp_all_classes"] == pytest.approx(50.0)
    assert "worse than chance" in done.output
    assert "12.5 % of the unknown images are tied at the highest confidence" in done.output


def test_missing_classes_and_flags_are_named(command, root, tmp_path):
    (root / "imagenet" / "val" / read_class_list("imagenet_o")[3]).rename(root / "away")
    for flags, text in (
        (["--data-dir", root], "images of 199 of 200 classes"),
        (["--data-dir", root / "away"], "imagenet-o is not in"),
        ([], "give --data-dir for ImageNet-O"),
        (["--in-dataset", "fractals"], "give --data-dir for ImageNet-O"),
        (["--in-dataset", "fractals", "--out-dataset", "fractals"], "the head has 1000 classes"),
    ):
        done = command(*flags, "--output", tmp_path / "x.json")
        assert done.exit_code == 1
        assert text in str(done.exception)


def test_any_folder_is_a_set_of_unknown_images(monkeypatch, tmp_path):
    import torch

    from synco_hub.models import SynCoConfig, SynCoForImageClassification, image_processor

    torch.manual_seed(0)
    names = tuple(f"c{index}" for index in range(3))
    config = SynCoConfig(backbone="vit-nano", num_labels=3)
    classifier = SynCoForImageClassification(config).eval()
    monkeypatch.setattr("synco_hub.hub.loading.load_classifier", lambda name: (classifier, image_processor(32), names))
    generator = np.random.default_rng(0)
    for index in range(12):
        for folder in (f"known/train/c{index % 3}", f"known/test/c{index % 3}", "unknown/deep"):
            path = tmp_path / folder / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(path)
    flags = ["evaluate", "ood", "--model", "m", "--in-dataset", str(tmp_path / "known")]
    flags += ["--out-dataset", str(tmp_path / "unknown"), "--output", str(tmp_path / "ood.json"), "--device", "cpu"]
    done = invoke(flags)
    assert done.exit_code == 0, done.output
    result = EvaluationResult.load(tmp_path / "ood.json", "ood_pair")
    assert result.dataset.count == result.training_dataset.count == 12
    assert {"fpr95_msp", "fpr95_energy", "fpr95_knn"} <= set(result.metrics)
