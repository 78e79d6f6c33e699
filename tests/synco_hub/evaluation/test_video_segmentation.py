"""A network whose patch tokens are functions of the patch's colour follows coloured bands exactly."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data.davis import load_davis, read_mask, write_mask
from synco_hub.evaluation import video_segmentation
from synco_hub.evaluation.dense.label_propagation import PropagationSettings
from synco_hub.evaluation.dense.video_propagation import VideoSettings
from synco_hub.evaluation.video_segmentation import RESULT_FILE, evaluate_video_segmentation
from synco_hub.models import SynCoConfig, SynCoModel

COLOURS = np.array([[40, 60, 90], [230, 40, 30], [30, 220, 60]], dtype=np.uint8)
SETTINGS = VideoSettings(short_side=64, propagation=PropagationSettings(radius=3), progress=False)


def colour_reader(backbone="vit-nano"):
    """No positions, and blocks that add nothing: a token is the norm of its patch's embedding."""
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone=backbone))
    for name, parameter in model.named_parameters():
        if "attn.proj" in name or "mlp.fc2" in name or "pos_embed" in name:
            parameter.data.zero_()
    return model


def band_masks(frames=6, width=128):
    """Two upright bands of two patches that move by one patch a frame. Shape: (frames, 64, width)."""
    masks = np.zeros((frames, 64, width), dtype=np.uint8)
    for frame in range(frames):
        masks[frame, :, 8 * (1 + frame) : 8 * (3 + frame)] = 1
        masks[frame, :, 8 * (14 - frame) : 8 * (16 - frame)] = 2
    return masks


def write_video(root, name, masks, annotations=None):
    images, folder = (root / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    images.mkdir(parents=True)
    for frame, (mask, annotation) in enumerate(zip(masks, masks if annotations is None else annotations, strict=True)):
        Image.fromarray(COLOURS[mask]).save(images / f"{frame:05d}.jpg", quality=100, subsampling=0)
        write_mask(folder / f"{frame:05d}.png", annotation)
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True, exist_ok=True)
    with (lists / "val.txt").open("a") as stream:
        stream.write(f"{name}\n")


@pytest.fixture
def davis(tmp_path):
    """One video that is annotated as it is; in the other, object 1 is annotated one patch too far to the right."""
    write_video(tmp_path / "davis", "right", band_masks())
    shifted = band_masks()
    for mask in shifted[1:]:
        one = mask == 1
        mask[one] = 0
        mask[np.roll(one, 8, axis=1)] = 1
    write_video(tmp_path / "davis", "shifted", band_masks(), shifted)
    return tmp_path / "davis"


def test_planted_j_and_f(davis, tmp_path):
    result = evaluate_video_segmentation(colour_reader(), load_davis(davis), tmp_path / "out", SETTINGS)
    videos = {
        name: json.loads((tmp_path / "out" / "videos" / f"{name}.json").read_text()) for name in ("right", "shifted")
    }
    for measure in ("region", "contour"):
        assert videos["right"][measure] == [[1.0] * 4] * 2
    # Two patches, one of which is right: 1 of 3 in the union.
    assert videos["shifted"]["region"][0] == pytest.approx([1 / 3] * 4)
    assert videos["shifted"]["region"][1][:2] == [1.0, 1.0]
    assert result.metrics["jf_mean"] == pytest.approx((result.metrics["j_mean"] + result.metrics["f_mean"]) / 2)
    assert not result.partial
    assert result.dataset.count == 12
    assert result.protocol.parameters["propagation"]["radius"] == 3
    found = read_mask(tmp_path / "out" / "masks" / "shifted" / "00003.png")
    assert np.array_equal(found, band_masks()[3])
    with Image.open(tmp_path / "out" / "masks" / "right" / "00005.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[3:6] == [128, 0, 0]


@pytest.mark.parametrize("stage", [1, 2])
def test_a_swin_follows_from_the_stage_that_was_chosen(davis, tmp_path, stage):
    settings = VideoSettings(short_side=64, stage=stage, propagation=PropagationSettings(radius=8), progress=False)
    videos = load_davis(davis)[:1]
    result = evaluate_video_segmentation(colour_reader("swin-nano"), videos, tmp_path / "out", settings)
    assert result.metrics["j_mean"] > 90
    assert result.protocol.parameters["stage"] == stage
    assert result.protocol.parameters["stride"] == [2 * stage, 2 * stage]


def test_finished_videos_are_skipped_and_others_are_not(davis, tmp_path, monkeypatch):
    videos, output = load_davis(davis), tmp_path / "out"
    model = colour_reader()
    whole = evaluate_video_segmentation(model, videos, tmp_path / "whole", SETTINGS)
    measured = []
    original = video_segmentation.propagated_masks

    def interrupted(network, video, *rest):
        measured.append(video.name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return original(network, video, *rest)

    monkeypatch.setattr(video_segmentation, "propagated_masks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_video_segmentation(model, videos, output, SETTINGS)
    half = json.loads((output / RESULT_FILE).read_text())
    assert half["partial"] is True
    assert half["metrics"]["j_mean"] == 100.0
    result = evaluate_video_segmentation(model, videos, output, SETTINGS)
    assert measured == ["right", "shifted", "shifted"]
    scores = [name for name in whole.metrics if not name.endswith("per_frame")]
    assert {name: result.metrics[name] for name in scores} == {name: whole.metrics[name] for name in scores}
    assert not result.partial
    with pytest.raises(ValueError, match="another measurement"):
        evaluate_video_segmentation(model, videos, output, VideoSettings(short_side=128, progress=False))
    model.backbone.norm.bias.data[0] += 1
    with pytest.raises(ValueError, match="weights"):
        evaluate_video_segmentation(model, videos, output, SETTINGS)
    # A video that changed on disk is measured again.
    model.backbone.norm.bias.data[0] -= 1
    Image.new("RGB", (128, 64)).save(videos[0].frames[3])
    assert evaluate_video_segmentation(model, videos, output, SETTINGS).metrics["j_mean"] < whole.metrics["j_mean"]


@pytest.mark.parametrize("first", [True, False])
def test_a_faulty_video_leaves_a_partial_result_of_the_others(davis, tmp_path, first):
    name = "right" if first else "shifted"
    (davis / "Annotations" / "480p" / name / "00002.png").unlink()
    result = evaluate_video_segmentation(colour_reader(), load_davis(davis), tmp_path / "out", SETTINGS)
    assert result.partial
    assert result.skipped_files == (name,)
    assert "no annotation" in result.notes[0]
    assert json.loads((tmp_path / "out" / RESULT_FILE).read_text())["skipped_files"] == [name]
    assert "1 of 2 videos" in result.dataset.description
    (davis / "Annotations" / "480p" / ("shifted" if first else "right") / "00002.png").unlink()
    with pytest.raises(ValueError, match="no annotation"):
        evaluate_video_segmentation(colour_reader(), load_davis(davis), tmp_path / "other", SETTINGS)


def test_weights_that_are_nan_give_no_score(davis, tmp_path):
    model = colour_reader()
    model.backbone.norm.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match=r"'right': the features of 00000.jpg are NaN or infinite"):
        evaluate_video_segmentation(model, load_davis(davis), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out" / RESULT_FILE).exists()
