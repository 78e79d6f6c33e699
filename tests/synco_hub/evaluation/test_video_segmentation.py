"""A network whose patch tokens are functions of the colour follows coloured bands exactly; J and F against loops."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data.davis import DavisVideo, load_davis, read_mask, write_mask
from synco_hub.evaluation import video_segmentation
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.video_segmentation import (
    RESULT_FILE,
    VideoScores,
    evaluate_video_segmentation,
    frame_size,
    measure_video,
    propagate_masks,
    score_video,
)
from synco_hub.metrics import contour_accuracy, region_similarity
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import VideoSegmentationSettings

COLOURS = np.array([[40, 60, 90], [230, 40, 30], [30, 220, 60]], dtype=np.uint8)
SETTINGS = VideoSegmentationSettings(short_side=64, radius=3, progress=False)


def colour_reader(backbone="vit-nano"):
    """No positions, and blocks that add nothing: a token is the norm of its patch's embedding."""
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone=backbone))
    for name, parameter in model.named_parameters():
        if "attn.proj" in name or "mlp.fc2" in name or "pos_embed" in name:
            parameter.data.zero_()
    return EvaluatedModel(model, image_processor(32), "colours")


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
    settings = replace(SETTINGS, stage=stage, radius=8)
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
    original = video_segmentation.propagate_masks

    def interrupted(model, video, *rest):
        measured.append(video.name)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return original(model, video, *rest)

    monkeypatch.setattr(video_segmentation, "propagate_masks", interrupted)
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
        evaluate_video_segmentation(model, videos, output, replace(SETTINGS, short_side=128))
    model.network.backbone.norm.bias.data[0] += 1
    with pytest.raises(ValueError, match="weights"):
        evaluate_video_segmentation(model, videos, output, SETTINGS)
    # A video that changed on disk is measured again.
    model.network.backbone.norm.bias.data[0] -= 1
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
    model.network.backbone.norm.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match=r"'right': the features of 00000.jpg are NaN or infinite"):
        evaluate_video_segmentation(model, load_davis(davis), tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out" / RESULT_FILE).exists()


def test_what_does_not_move_keeps_its_mask(tmp_path):
    torch.manual_seed(0)
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).eval()
    model = EvaluatedModel(network, image_processor(32), "still")
    first = torch.zeros(64, 64, dtype=torch.uint8)
    first[:, 24:48] = 1
    colours = np.array([[20, 40, 200], [220, 180, 10]], dtype=np.uint8)[first.numpy()]
    frames = tuple(tmp_path / f"{number}.png" for number in range(4))
    for file in frames:
        Image.fromarray(colours).save(file)
    settings = replace(SETTINGS, topk=1, radius=0)
    found = list(propagate_masks(model, DavisVideo("still", frames, frames), first, settings, None))
    assert len(found) == 3
    assert all(torch.equal(mask, first) and seconds >= 0 for mask, seconds in found)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="short_side=0"):
        VideoSegmentationSettings(short_side=0)


@pytest.mark.parametrize(
    ("video", "short_side", "stride", "seen"),
    [
        # 480p as the published scripts see it, both ways round, and with patches of 8 and 14.
        ((854, 480), 480, (16, 16), (480, 832)),
        ((480, 854), 480, (16, 16), (832, 480)),
        ((854, 480), 480, (8, 8), (480, 832)),
        ((854, 480), 480, (14, 14), (476, 826)),
        ((40, 40), 40, (8, 8), (40, 40)),
        ((60, 3), 4, (8, 8), (8, 64)),
    ],
)
def test_frame_sizes(video, short_side, stride, seen):
    assert frame_size(*video, short_side, stride) == seen


def draw(seed, frames=12):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 3, (frames, 10, 14), generator=generator, dtype=torch.uint8)
    annotations = torch.where(torch.rand(masks.shape, generator=generator) < 0.8, masks, 1)
    annotations[torch.rand(masks.shape, generator=generator) < 0.05] = 255
    annotations[0, 0, :2] = torch.tensor([1, 2], dtype=torch.uint8)
    return masks, annotations


@pytest.mark.parametrize("chunk", [1, 8, 100])
def test_agrees_with_a_loop_over_objects_and_frames(chunk, monkeypatch):
    monkeypatch.setattr(video_segmentation, "_CHUNK", chunk)
    masks, annotations = draw(0)
    found = score_video("v", masks, annotations, [0.1] * 11)
    for number in (1, 2):
        for frame in range(1, 11):
            # davis2017-evaluation: index 255 is background.
            annotated = torch.where(annotations[frame] == 255, 0, annotations[frame])
            pair = masks[frame] == number, annotated == number
            assert found.region[number - 1][frame - 1] == float(region_similarity(*pair))
            assert found.contour[number - 1][frame - 1] == float(contour_accuracy(*pair))
    assert found.num_frames == 12
    assert VideoScores.from_dict(found.to_dict()) == found


def test_known_values_of_an_object_that_disappears():
    """Frames 1 to 3 count of 5. The object leaves the annotation in frame 2; the prediction keeps it."""
    masks = torch.zeros(5, 20, 20, dtype=torch.uint8)
    masks[:, 5:15, 5:15] = 1
    annotations = masks.clone()
    annotations[2] = 0
    annotations[0, 0, 0] = annotations[4, 0, 0] = 1  # neither frame counts
    found = score_video("v", masks, annotations)
    assert found.region == found.contour == [[1.0, 0.0, 1.0]]
    metrics = measure_video([found])
    assert metrics["j_mean"] == metrics["f_mean"] == metrics["jf_mean"] == pytest.approx(200 / 3)
    assert metrics["j_recall"] == pytest.approx(200 / 3)
    assert "propagation_s_per_frame" not in metrics
    # Absent in both is right.
    masks[2] = 0
    assert score_video("v", masks, annotations).region == [[1.0, 1.0, 1.0]]


def test_objects_count_alike_not_videos():
    one = VideoScores("one", [[1.0, 1.0, 1.0]], [[0.5] * 3], [0.1] * 4)
    two = VideoScores("two", [[0.0] * 8, [0.25] * 8, [0.5] * 8], [[0.5] * 8] * 3, [0.2] * 9)
    metrics = measure_video([one, two])
    assert metrics["j_mean"] == pytest.approx(100 * np.mean([1.0, 0.0, 0.25, 0.5]))
    assert metrics["j_recall"] == pytest.approx(25.0)
    assert metrics["f_mean"] == pytest.approx(50.0)
    assert metrics["f_recall"] == 0.0
    assert metrics["jf_mean"] == pytest.approx((43.75 + 50) / 2)
    assert metrics["propagation_s_per_frame"] == pytest.approx((4 * 0.1 + 9 * 0.2) / 13)


def test_decay_is_what_is_lost():
    falling = VideoScores("v", [np.linspace(1, 0, 9).tolist()], [[1.0] * 9], [])
    # Quarters share their ends: frames 1-3 against 7-9.
    assert measure_video([falling])["j_decay"] == pytest.approx(100 * (0.875 - 0.125))


def test_bad_input():
    masks, annotations = draw(1)
    with pytest.raises(ValueError, match="do not fit"):
        score_video("v", masks[:5], annotations)
    with pytest.raises(ValueError, match=r"names? object 3, its first frame has 2"):
        score_video("v", torch.full_like(masks, 3), annotations)
    with pytest.raises(ValueError, match="no scores of a video"):
        VideoScores.from_dict({"name": "v"})
