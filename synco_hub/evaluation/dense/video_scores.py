"""J and F of every object and frame of a video, and the numbers of a data set made of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from synco_hub.data.davis import VOID
from synco_hub.metrics import contour_accuracy, region_similarity, sequence_statistics

# Frames whose masks are compared at once: bounds the memory of long videos.
_CHUNK = 8


@dataclass(frozen=True)
class VideoScores:
    """Scores of one video; a list for each object, with a number for each frame but the first and last.

    Attributes:
        name: The video.
        region: J of each object and frame.
        contour: F of each object and frame.
        seconds: What the propagation took, for each frame after the first.
    """

    name: str
    region: list[list[float]]
    contour: list[list[float]]
    seconds: list[float]

    @property
    def num_frames(self) -> int:
        """Frames of the video, the first included."""
        return len(self.seconds) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """What :meth:`to_dict` gave.

        Raises:
            ValueError: If fields are missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"these are no scores of a video ({error}): delete the file") from None


def score_video(name: str, masks: Tensor, annotations: Tensor, seconds: Sequence[float] = ()) -> VideoScores:
    """Compare the masks of a video with its annotations.

    Objects are those of the first annotation. The first frame is given, and DAVIS leaves out the last one too.

    Args:
        name: The video.
        masks: Predicted indices. Shape: (frames, height, width).
        annotations: Annotated indices, 255 where pixels do not count. Shape: (frames, height, width).
        seconds: What the propagation took, kept with the scores.

    Raises:
        ValueError: If shapes differ, or the masks name more objects than the first annotation.
    """
    if masks.shape != annotations.shape or masks.ndim != 3 or len(masks) < 3:
        raise ValueError(
            f"masks {tuple(masks.shape)} and annotations {tuple(annotations.shape)} of video {name!r} do not fit: "
            "both are (frames, height, width), at least 3 frames"
        )
    first = annotations[0]
    num_objects = int(first[first != VOID].max()) if bool((first != VOID).any()) else 0
    if int(masks.max()) > num_objects:
        raise ValueError(
            f"the masks of video {name!r} name object {int(masks.max())}, its first frame has {num_objects}: "
            "every object must be in the first frame"
        )
    region: list[list[float]] = [[] for _ in range(num_objects)]
    contour: list[list[float]] = [[] for _ in range(num_objects)]
    for start in range(1, len(masks) - 1, _CHUNK):
        frames = slice(start, min(start + _CHUNK, len(masks) - 1))
        void = annotations[frames] == VOID
        for number in range(num_objects):
            pair = masks[frames] == number + 1, annotations[frames] == number + 1
            region[number] += region_similarity(*pair, void).tolist()
            contour[number] += contour_accuracy(*pair, void).tolist()
    return VideoScores(name, region, contour, list(seconds))


def video_metrics(videos: Sequence[VideoScores]) -> dict[str, float]:
    """Means over all objects of all videos, in percent; J&F is the mean of J's and F's means.

    Args:
        videos: At least one, each with an object.

    Returns:
        `jf_mean`, then mean, recall and decay of J and F, then the mean seconds of propagation a frame.

    Source: Pont-Tuset et al., "The 2017 DAVIS challenge", section 4: objects count alike, not videos.
    """
    metrics: dict[str, float] = {}
    for letter, name in (("j", "region"), ("f", "contour")):
        objects = [sequence_statistics(torch.tensor(values)) for video in videos for values in getattr(video, name)]
        for statistic in ("mean", "recall", "decay"):
            metrics[f"{letter}_{statistic}"] = 100 * statistics.fmean(getattr(each, statistic) for each in objects)
    metrics = {"jf_mean": (metrics["j_mean"] + metrics["f_mean"]) / 2, **metrics}
    seconds = [second for video in videos for second in video.seconds]
    if seconds:
        metrics["propagation_s_per_frame"] = statistics.fmean(seconds)
    return metrics
