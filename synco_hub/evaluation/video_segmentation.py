"""Semi-supervised video object segmentation on DAVIS 2017 by label propagation: nothing is trained.

The masks of a video's first frame travel to the others by the likeness of frozen patch features; J measures the
regions, F their outlines. Finished videos stay on disk, so that a killed run goes on with the next one.

Published for orientation (remembered, not checked): DINO ViT-S/16 reaches J&F 61.8 %, ViT-S/8 69.9 %.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from synco_hub.data import decode_rgb
from synco_hub.data.davis import RESOLUTION, VOID, DavisVideo, read_mask, write_mask
from synco_hub.evaluation.any_size import pixel_values
from synco_hub.evaluation.dense_features import chosen_stage, dense_features, feature_stride
from synco_hub.evaluation.efficiency import wait_for
from synco_hub.evaluation.label_propagation import (
    LabelPropagation,
    PropagationSettings,
    labels_to_mask,
    one_hot_patches,
)
from synco_hub.evaluation.measured_split import model_source
from synco_hub.evaluation.resumable_folder import claim_folder, read_json, weights_fingerprint, write_json
from synco_hub.evaluation.video_scores import VideoScores, score_video, video_metrics
from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name

logger = logging.getLogger(__name__)

RESULT_FILE = "video-segmentation.json"
# The long side is a multiple of this, as in the scripts whose numbers are published.
_LONG_SIDE_UNIT = 64


@dataclass(frozen=True)
class VideoSettings:
    """How frames become features, and labels travel.

    Attributes:
        short_side: Shorter side in pixels of what the network sees.
        stage: Of a Swin, counted from 1; None for the one with patches of 16 pixels.
        propagation: How labels travel.
        mean: Of each channel.
        std: Of each channel.
        device: Where the model and the propagation run; None for where the model is.
        progress: Show progress bars.

    Raises:
        ValueError: If the short side is not positive.
    """

    short_side: int = 480
    stage: int | None = None
    propagation: PropagationSettings = field(default_factory=PropagationSettings)
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    device: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.short_side < 1:
            raise ValueError(f"short_side={self.short_side} is not positive: DAVIS's is 480")


def evaluate_video_segmentation(
    model: nn.Module,
    videos: Sequence[DavisVideo],
    output_dir: Path,
    settings: VideoSettings | None = None,
    model_name: str | None = None,
    split: str = "val",
) -> EvaluationResult:
    """Follow the objects of every video and score the masks.

    A video that cannot be measured (sizes, annotations, objects) is named in the result, which is then partial, and
    the others are measured. The result on disk is renewed after each video, partial until the last.

    Args:
        model: A ViT or Swin that takes images of any size; it stays as it is.
        videos: What :func:`synco_hub.data.davis.load_davis` listed.
        output_dir: Gets `masks/<video>/*.png`, `videos/<video>.json` and `video-segmentation.json`; finished videos
            of an earlier run with the same model and settings are taken from it.
        settings: How it is measured.
        model_name: What the result calls the model.
        split: Name of the split.

    Returns:
        J&F, J and F (mean, recall, decay) in percent over all objects, and the seconds a frame took beside the
        network's forward pass.

    Raises:
        ValueError: If no video could be measured, with the first reason, or the folder belongs to another
            measurement.
    """
    started = time.perf_counter()
    settings = settings or VideoSettings()
    stage = chosen_stage(model, settings.stage)
    network = feature_network(model)
    how = {key: value for key, value in asdict(settings).items() if key not in ("device", "progress")}
    how |= {"stage": stage, "stride": list(feature_stride(model, stage))}
    claim_folder(output_dir, {**how, "weights": weights_fingerprint(network)})
    finished: list[VideoScores] = []
    faults: dict[str, str] = {}
    result = None
    with frozen(network, settings.device) as running:
        for number, video in enumerate(videos, start=1):
            try:
                finished.append(_measured(running, video, output_dir, settings, stage, f"{number}/{len(videos)}"))
            except ValueError as error:
                logger.warning("%s", error)
                faults[video.name] = str(error)
                continue
            result = EvaluationResult(
                metrics=video_metrics(finished),
                model=model_source(model, model_name),
                dataset=_data_source(finished, len(videos), split),
                protocol=ProtocolFacts("video-segmentation", {**how, "frames_scored": "all but first and last"}),
                preprocessing={"short_side": settings.short_side, "mean": settings.mean, "std": settings.std},
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
        result = _with_faults(result, faults)
        result.save(output_dir / RESULT_FILE)
    return result


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


def propagated_masks(
    network: nn.Module, video: DavisVideo, first_mask: Tensor, settings: VideoSettings, stage: int | None
) -> Iterator[tuple[Tensor, float]]:
    """Follow the objects of a video's first frame.

    Args:
        network: In eval mode, on its device.
        video: Frames.
        first_mask: Indices of objects in the first frame. Shape: (height, width).
        settings: How it is done.
        stage: What :func:`synco_hub.evaluation.dense_features.chosen_stage` gave.

    Yields:
        For each frame after the first its indices (height, width), uint8, and the seconds that the propagation took
        without reading and without the network's forward pass.
    """
    device = next(network.parameters()).device
    size = (first_mask.shape[0], first_mask.shape[1])
    stride = feature_stride(network, stage)
    num_objects = int(torch.where(first_mask == VOID, 0, first_mask).max())
    propagation = None
    for file in video.frames:
        image = pixel_values(decode_rgb(file), settings.mean, settings.std).to(device)
        seen = frame_size(size[1], size[0], settings.short_side, stride)
        image = F.interpolate(image, size=seen, mode="bilinear", align_corners=False)
        features = dense_features(network, image, stage)[0]
        if not bool(torch.isfinite(features).all()):
            raise ValueError(
                f"video {video.name!r}: the features of {file.name} are NaN or infinite, so that no patch is like "
                "another: check the checkpoint's weights"
            )
        if propagation is None:
            labels = one_hot_patches(first_mask.to(device), (features.shape[0], features.shape[1]), num_objects)
            propagation = LabelPropagation(features, labels, settings.propagation)
            continue
        wait_for(device)  # the forward pass belongs to the network
        started = time.perf_counter()
        labels = propagation.step(features)
        grown = (features.shape[0] * stride[0], features.shape[1] * stride[1])
        # Copying to the CPU waits for the device: the clock is honest there too.
        mask = labels_to_mask(labels, grown, seen, size).cpu()
        yield mask, time.perf_counter() - started


def _measured(
    network: nn.Module, video: DavisVideo, output_dir: Path, settings: VideoSettings, stage: int | None, place: str
) -> VideoScores:
    """Scores of one video, from disk if an earlier run finished it."""
    kept = output_dir / "videos" / f"{video.name}.json"
    if kept.is_file():
        scores = VideoScores.from_dict(read_json(kept))
        if scores.fingerprint == video.fingerprint():
            return scores
    annotations = video.read_annotations()
    first = torch.from_numpy(annotations[0])
    folder = output_dir / "masks" / video.name
    write_mask(folder / f"{video.frames[0].stem}.png", np.where(annotations[0] == VOID, 0, annotations[0]))
    seconds = []
    following = propagated_masks(network, video, first, settings, stage)
    bar = tqdm(
        following, f"{video.name} ({place})", len(video.frames) - 1, unit="frame", disable=not settings.progress
    )
    for file, (mask, taken) in zip(video.frames[1:], bar, strict=True):
        write_mask(folder / f"{file.stem}.png", mask.numpy())
        seconds.append(taken)
    masks = np.stack([read_mask(folder / f"{file.stem}.png") for file in video.frames])
    scores = score_video(video.name, torch.from_numpy(masks), torch.from_numpy(annotations), seconds)
    scores = replace(scores, fingerprint=video.fingerprint())
    write_json(kept, scores.to_dict())
    return scores


def _data_source(finished: Sequence[VideoScores], listed: int, split: str) -> DataSource:
    frames, objects = sum(each.num_frames for each in finished), sum(len(each.region) for each in finished)
    words = f"DAVIS {RESOLUTION}: {len(finished)} of {listed} videos, {objects} objects, {frames} frames"
    return DataSource("davis2017", split, frames, description=words)


def _with_faults(result: EvaluationResult, faults: dict[str, str]) -> EvaluationResult:
    values: dict[str, Any] = result.to_dict()
    return EvaluationResult.from_dict(
        {**values, "skipped_files": list(faults), "notes": list(faults.values()), "partial": True}
    )
