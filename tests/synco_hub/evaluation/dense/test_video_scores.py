"""Against frame-by-frame loops, and sequences whose numbers are known."""

import numpy as np
import pytest
import torch

from synco_hub.evaluation.dense import video_scores
from synco_hub.evaluation.dense.video_scores import VideoScores, score_video, video_metrics
from synco_hub.metrics import contour_accuracy, region_similarity


def draw(seed, frames=12):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.randint(0, 3, (frames, 10, 14), generator=generator, dtype=torch.uint8)
    annotations = torch.where(torch.rand(masks.shape, generator=generator) < 0.8, masks, 1)
    annotations[torch.rand(masks.shape, generator=generator) < 0.05] = 255
    annotations[0, 0, :2] = torch.tensor([1, 2], dtype=torch.uint8)
    return masks, annotations


@pytest.mark.parametrize("chunk", [1, 8, 100])
def test_agrees_with_a_loop_over_objects_and_frames(chunk, monkeypatch):
    monkeypatch.setattr(video_scores, "_CHUNK", chunk)
    masks, annotations = draw(0)
    found = score_video("v", masks, annotations, [0.1] * 11)
    for number in (1, 2):
        for frame in range(1, 11):
            pair = masks[frame] == number, annotations[frame] == number
            void = annotations[frame] == 255
            assert found.region[number - 1][frame - 1] == float(region_similarity(*pair, void))
            assert found.contour[number - 1][frame - 1] == float(contour_accuracy(*pair, void))
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
    metrics = video_metrics([found])
    assert metrics["j_mean"] == metrics["f_mean"] == metrics["jf_mean"] == pytest.approx(200 / 3)
    assert metrics["j_recall"] == pytest.approx(200 / 3)
    assert "propagation_s_per_frame" not in metrics
    # Absent in both is right.
    masks[2] = 0
    assert score_video("v", masks, annotations).region == [[1.0, 1.0, 1.0]]


def test_objects_count_alike_not_videos():
    one = VideoScores("one", [[1.0, 1.0, 1.0]], [[0.5] * 3], [0.1] * 4)
    two = VideoScores("two", [[0.0] * 8, [0.25] * 8, [0.5] * 8], [[0.5] * 8] * 3, [0.2] * 9)
    metrics = video_metrics([one, two])
    assert metrics["j_mean"] == pytest.approx(100 * np.mean([1.0, 0.0, 0.25, 0.5]))
    assert metrics["j_recall"] == pytest.approx(25.0)
    assert metrics["f_mean"] == pytest.approx(50.0)
    assert metrics["f_recall"] == 0.0
    assert metrics["jf_mean"] == pytest.approx((43.75 + 50) / 2)
    assert metrics["propagation_s_per_frame"] == pytest.approx((4 * 0.1 + 9 * 0.2) / 13)


def test_decay_is_what_is_lost():
    falling = VideoScores("v", [np.linspace(1, 0, 9).tolist()], [[1.0] * 9], [])
    # Quarters share their ends: frames 1-3 against 7-9.
    assert video_metrics([falling])["j_decay"] == pytest.approx(100 * (0.875 - 0.125))


def test_bad_input():
    masks, annotations = draw(1)
    with pytest.raises(ValueError, match="do not fit"):
        score_video("v", masks[:5], annotations)
    with pytest.raises(ValueError, match=r"names? object 3, its first frame has 2"):
        score_video("v", torch.full_like(masks, 3), annotations)
    with pytest.raises(ValueError, match="no scores of a video"):
        VideoScores.from_dict({"name": "v"})
