from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.cli.evaluate_all import run_all
from synco_hub.cli.published_sets import PUBLISHED, run_published
from synco_hub.data.davis import write_mask
from synco_hub.features import ExtractionSettings
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.results import EvaluationResult


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


def test_what_is_there_is_measured_and_what_is_missing_is_said(model, archives, tmp_path, capfd):
    nothing = "fractals:num_classes=2,train_images_per_class=2,test_images_per_class=1"
    settings = ExtractionSettings(batch_size=4, device="cpu", progress=False)
    table = run_all(model, [nothing], tmp_path / "out", settings, data_dir=archives)
    result = EvaluationResult.load(tmp_path / "out" / "davis" / "video-segmentation.json")
    assert result.metrics["j_mean"] > 90  # two colours, and nothing moves
    assert "jf_mean" in table
    assert "### knn" in table
    said = capfd.readouterr().out
    assert "skipped robustness: no imagenet-c or imagenet-a" in said
    assert "skipped discovery: " in said
    assert not (tmp_path / "out" / "discovery.json").exists()


def test_every_command_exists_and_takes_the_flags(tmp_path):
    import typer.main

    from synco_hub.cli.evaluate import evaluate

    commands = typer.main.get_command(evaluate).commands
    for name, protocol in PUBLISHED.items():
        command, *flags = protocol.flags(tmp_path, tmp_path / "out")
        options = {option for parameter in commands[command].params for option in parameter.opts}
        assert {flag for flag in flags if flag.startswith("--")} | {"--model", "--device"} <= options, name
        assert str(tmp_path / "out" / protocol.result).startswith(flags[-1])


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run_published("any", tmp_path / "nowhere", tmp_path / "out", "cpu")
