"""The whole command on a small tree in the official layout, with planted J and F."""

import json

import numpy as np
import pytest
import torch
from command_line import invoke
from PIL import Image

from synco_hub.data.davis import write_mask
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture
def model(tmp_path):
    """Tokens are functions of the colour of their patch."""
    torch.manual_seed(0)
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    for name, parameter in network.named_parameters():
        if "attn.proj" in name or "mlp.fc2" in name or "pos_embed" in name:
            parameter.data.zero_()
    network.save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def davis(tmp_path):
    """A moving band; in the third of five frames the annotation says that it is gone."""
    root = tmp_path / "DAVIS"
    for video in ("a", "b"):
        images, masks = (root / kind / "480p" / video for kind in ("JPEGImages", "Annotations"))
        images.mkdir(parents=True)
        for frame in range(5):
            mask = np.zeros((64, 128), dtype=np.uint8)
            mask[:, 8 * (2 + frame) : 8 * (5 + frame)] = 1
            colours = np.array([[20, 40, 200], [220, 180, 10]], dtype=np.uint8)[mask]
            Image.fromarray(colours).save(images / f"{frame:05d}.jpg", quality=100, subsampling=0)
            write_mask(masks / f"{frame:05d}.png", mask * 0 if video == "b" and frame == 2 else mask)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("a\nb\n")
    return root


def run(model, davis, output, *flags):
    arguments = ["--model", model, "--data-dir", str(davis), "--output-dir", str(output), "--short-side", "64"]
    return invoke(["evaluate", "video-segmentation", *arguments, "--radius", "4", *flags])


def test_planted_j_and_f(model, davis, tmp_path):
    done = run(model, davis, tmp_path / "out")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "out" / "video-segmentation.json").read_text())
    # Object of a: 1, 1, 1. Object of b: 1, 0, 1. Two objects.
    for name in ("jf_mean", "j_mean", "f_mean", "j_recall", "f_recall"):
        assert result["metrics"][name] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert result["protocol"]["parameters"]["propagation"] == {
        "num_previous": 7,
        "topk": 5,
        "radius": 4,
        "temperature": 0.1,
    }
    assert len(list((tmp_path / "out" / "masks" / "b").glob("*.png"))) == 5
    table = invoke(["results", "table", str(tmp_path / "out")])
    assert "jf_mean" in table.output


def test_a_faulty_video_keeps_the_rest_and_fails_the_command(model, davis, tmp_path):
    Image.new("RGB", (64, 64)).save(davis / "JPEGImages" / "480p" / "a" / "00003.jpg")
    done = run(model, davis, tmp_path / "out")
    assert done.exit_code == 1
    assert "a could not be measured, the result of the others (DAVIS 480p: 1 of 2 videos" in str(done.exception)
    assert "00003.jpg is 64x64, the first frame 128x64" in str(done.exception)
    result = json.loads((tmp_path / "out" / "video-segmentation.json").read_text())
    assert result["partial"] is True
    assert result["skipped_files"] == ["a"]
    assert result["metrics"]["j_mean"] == pytest.approx(200 / 3)


def test_stages_belong_to_a_swin(model, davis, tmp_path):
    done = run(model, davis, tmp_path / "out", "--stage", "3")
    assert done.exit_code == 1
    assert "has no stages" in str(done.exception)
    assert not (tmp_path / "out").exists()
