"""Semi-supervised video object segmentation on DAVIS 2017 by label propagation: nothing is trained.

The masks of a video's first frame travel to the others by the likeness of frozen patch features; J measures the
regions, F their outlines. Finished videos stay on disk, so that a killed run goes on with the next one.

Published for orientation (remembered, not checked): DINO ViT-S/16 reaches J&F 61.8 %, ViT-S/8 69.9 %.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from synco_hub.data import decode_rgb
from synco_hub.data.davis import RESOLUTION, VOID, DavisVideo, load_davis, read_mask, write_mask
from synco_hub.errors import FlagError
from synco_hub.evaluation.dense_features import choose_stage, compute_dense_features, find_feature_stride, pixel_values
from synco_hub.evaluation.efficiency import wait_for
from synco_hub.evaluation.label_propagation import (
    LabelPropagation,
    PropagationSettings,
    convert_labels_to_mask,
    encode_patches,
)
from synco_hub.evaluation.leaks import PictureFiles
from synco_hub.evaluation.measurement import EvaluatedModel, model_source
from synco_hub.evaluation.resume import ResumableFolder, hash_files, identify_model
from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import eval_mode
from synco_hub.metrics import contour_accuracy, region_similarity, sequence_statistics
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import DatasetChoice, VideoSegmentationSettings

logger = logging.getLogger(__name__)

RESULT_FILE = "video-segmentation.json"
# The long side is a multiple of this, as in the scripts whose numbers are published.
_LONG_SIDE_UNIT = 64
# As the semi-supervised task of davis2017-evaluation.
SCORING = {"frames_scored": "all but first and last", "index_255": "background"}
# Frames whose masks are compared at once: bounds the memory of long videos.
_CHUNK = 8


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: VideoSegmentationSettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a backbone on a folder of DAVIS; `output` is a folder, for masks, finished videos and the result."""
    if data.data_dir is None:
        raise FlagError("--data-dir is missing: give DAVIS, with JPEGImages/480p, Annotations/480p, ImageSets/2017.")
    videos = load_davis(Path(data.data_dir), settings.split)
    frames = [(f"{video.name}/{frame.name}", frame) for video in videos for frame in video.frames]
    model.check_leak(PictureFiles("davis2017", frames), settings.progress)
    if output is not None:
        return evaluate_video_segmentation(model, videos, output, settings)
    with tempfile.TemporaryDirectory() as folder:
        return evaluate_video_segmentation(model, videos, Path(folder), settings)


def format_table(result: EvaluationResult) -> str:
    """What was followed, and every number."""
    numbers = (
        f"  {name:<24} {value:8.3f} {'s' if name.endswith('s_per_frame') else '%'}"
        for name, value in result.metrics.items()
    )
    return "\n".join([result.dataset.description, *numbers])


def evaluate_video_segmentation(
    model: EvaluatedModel,
    videos: Sequence[DavisVideo],
    output_dir: Path,
    settings: VideoSegmentationSettings | None = None,
) -> EvaluationResult:
    """Follow the objects of every video and score the masks.

    A video that cannot be measured (sizes, annotations, objects) is named in the result, which is then partial, and
    the others are measured. The result on disk is renewed after each video, partial until the last.

    Returns:
        J&F, J and F (mean, recall, decay) in percent over all objects, and the seconds a frame took beside the
        network's forward pass.
    """
    started = time.perf_counter()
    settings = settings or VideoSegmentationSettings()
    stage = choose_stage(model.network, settings.stage)
    network = find_feature_network(model.network)
    how = {
        **{"short_side": settings.short_side, "stage": stage, "propagation": asdict(_make_propagation(settings))},
        **{"mean": model.mean, "std": model.std, "stride": list(find_feature_stride(model.network, stage))},
    }
    folder = ResumableFolder(output_dir, {**how, **identify_model(network)})
    finished: list[VideoScores] = []
    faults: dict[str, str] = {}
    result = None
    source = model_source(model.network, model.name, model.revision)
    with eval_mode(network, settings.device):
        for number, video in enumerate(videos, start=1):
            try:
                finished.append(_measured(model, video, folder, settings, stage, f"{number}/{len(videos)}"))
            except ValueError as error:
                logger.warning("%s", error)
                faults[video.name] = str(error)
                continue
            result = EvaluationResult(
                metrics=measure_video(finished),
                model=source,
                dataset=_data_source(finished, len(videos), settings.split),
                protocol=ProtocolFacts("video-segmentation", {**how, **SCORING}),
                preprocessing={"short_side": settings.short_side, "mean": model.mean, "std": model.std},
                device=device_name(settings.device or next(network.parameters()).device),
                duration_s=time.perf_counter() - started,
                skipped_files=tuple(faults),
                partial=len(finished) < len(videos),
                notes=tuple(faults.values()),
            )
            result.save(output_dir / RESULT_FILE)
    if result is None:
        raise ValueError(next(iter(faults.values()), "there is no video to measure: check the split"))
    if result.skipped_files != tuple(faults):
        # The last videos were the faulty ones.
        result = replace(result, skipped_files=tuple(faults), notes=tuple(faults.values()), partial=True)
        result.save(output_dir / RESULT_FILE)
    return result


def _measured(
    model: EvaluatedModel,
    video: DavisVideo,
    kept: ResumableFolder,
    settings: VideoSegmentationSettings,
    stage: int | None,
    place: str,
) -> VideoScores:
    """Scores of one video, from disk if an earlier run finished it."""
    part, contents = f"videos/{video.name}.json", hash_files(video.frames + video.annotations)
    finished = kept.load_part(part, contents)
    if finished is not None:
        return VideoScores.from_dict(finished)
    annotations = video.read_annotations()
    first = torch.from_numpy(annotations[0])
    folder = Path(str(kept.path)) / "masks" / video.name
    write_mask(folder / f"{video.frames[0].stem}.png", np.where(annotations[0] == VOID, 0, annotations[0]))
    seconds = []
    following = propagate_masks(model, video, first, settings, stage)
    bar = tqdm(
        following, f"{video.name} ({place})", len(video.frames) - 1, unit="frame", disable=not settings.progress
    )
    for frame, (mask, taken) in zip(video.frames[1:], bar, strict=True):
        write_mask(folder / f"{frame.stem}.png", mask.numpy())
        seconds.append(taken)
    masks = np.stack([read_mask(folder / f"{frame.stem}.png") for frame in video.frames])
    scores = score_video(video.name, torch.from_numpy(masks), torch.from_numpy(annotations), seconds)
    kept.save_part(part, contents, scores.to_dict())
    return scores


def _make_propagation(settings: VideoSegmentationSettings) -> PropagationSettings:
    return PropagationSettings(settings.num_previous, settings.topk, settings.radius, settings.temperature)


def propagate_masks(
    model: EvaluatedModel,
    video: DavisVideo,
    first_mask: Tensor,
    settings: VideoSegmentationSettings,
    stage: int | None,
) -> Iterator[tuple[Tensor, float]]:
    """Follow the objects of a video's first frame.

    Args:
        model: In eval mode, on its device.
        video: Frames.
        first_mask: Indices of objects in the first frame. Shape: (height, width).
        settings: How it is done.
        stage: What :func:`synco_hub.evaluation.dense_features.choose_stage` gave.

    Yields:
        For each frame after the first its indices (height, width), uint8, and the seconds that the propagation took
        without reading and without the network's forward pass.
    """
    network = find_feature_network(model.network)
    device = next(network.parameters()).device
    size = (first_mask.shape[0], first_mask.shape[1])
    stride = find_feature_stride(network, stage)
    num_objects = int(torch.where(first_mask == VOID, 0, first_mask).max())
    propagation = None
    for file in video.frames:
        image = pixel_values(decode_rgb(file), model.mean, model.std).to(device)
        seen = frame_size(size[1], size[0], settings.short_side, stride)
        image = F.interpolate(image, size=seen, mode="bilinear", align_corners=False)
        features = compute_dense_features(network, image, stage)[0]
        if not bool(torch.isfinite(features).all()):
            raise ValueError(
                f"video {video.name!r}: the features of {file.name} are NaN or infinite, so that no patch is like "
                "another: check the checkpoint's weights"
            )
        if propagation is None:
            labels = encode_patches(first_mask.to(device), (features.shape[0], features.shape[1]), num_objects)
            propagation = LabelPropagation(features, labels, _make_propagation(settings))
            continue
        wait_for(device)  # the forward pass belongs to the network
        started = time.perf_counter()
        labels = propagation.step(features)
        grown = (features.shape[0] * stride[0], features.shape[1] * stride[1])
        # Copying to the CPU waits for the device: the clock is honest there too.
        mask = convert_labels_to_mask(labels, grown, seen, size).cpu()
        yield mask, time.perf_counter() - started


def frame_size(width: int, height: int, short_side: int, stride: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which the network sees a frame.

    The shorter side as given, the longer one in proportion and rounded down to a multiple of 64 (where it has that
    many pixels), both whole patches.

    Args:
        width: Of the video.
        height: Of the video.
        short_side: Wanted, in pixels.
        stride: Height and width in pixels of a patch.
    """
    long_side = short_side * max(width, height) // min(width, height)
    if long_side >= _LONG_SIDE_UNIT:
        long_side -= long_side % _LONG_SIDE_UNIT
    sides = (short_side, long_side) if height <= width else (long_side, short_side)
    return max(sides[0] // stride[0], 1) * stride[0], max(sides[1] // stride[1], 1) * stride[1]


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
        """What :meth:`to_dict` gave."""
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
        annotations: Annotated indices; 255 counts as background, as in davis2017-evaluation's semi-supervised task.
            Shape: (frames, height, width).
        seconds: What the propagation took, kept with the scores.
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
        for number in range(num_objects):
            pair = masks[frames] == number + 1, annotations[frames] == number + 1
            region[number] += region_similarity(*pair).tolist()
            contour[number] += contour_accuracy(*pair).tolist()
    return VideoScores(name, region, contour, list(seconds))


def measure_video(videos: Sequence[VideoScores]) -> dict[str, float]:
    """Means over all objects of all videos, in percent; J&F is the mean of J's and F's means.

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


def _data_source(finished: Sequence[VideoScores], listed: int, split: str) -> DataSource:
    frames, objects = sum(each.num_frames for each in finished), sum(len(each.region) for each in finished)
    words = f"DAVIS {RESOLUTION}: {len(finished)} of {listed} videos, {objects} objects, {frames} frames"
    return DataSource("davis2017", split, frames, description=words)
