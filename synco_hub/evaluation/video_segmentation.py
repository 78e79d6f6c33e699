"""Semi-supervised video object segmentation on DAVIS 2017 by label propagation: nothing is trained.

The masks of a video's first frame travel to the others by the likeness of frozen patch features; J measures the
regions, F their outlines. Finished videos stay on disk, so that a killed run goes on with the next one.

Published for orientation (remembered, not checked): DINO ViT-S/16 reaches J&F 61.8 %, ViT-S/8 69.9 %.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from synco_hub.data.davis import RESOLUTION, VOID, DavisVideo, read_mask, write_mask
from synco_hub.evaluation.dense.dense_features import chosen_stage, feature_stride
from synco_hub.evaluation.dense.video_propagation import VideoSettings, propagated_masks
from synco_hub.evaluation.dense.video_scores import VideoScores, score_video, video_metrics
from synco_hub.evaluation.measurement.image_contents import contents_of_files
from synco_hub.evaluation.measurement.measured_split import model_source
from synco_hub.evaluation.measurement.model_identity import model_identity
from synco_hub.evaluation.measurement.resumable_folder import claim_folder, finished_part, keep_part
from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name

logger = logging.getLogger(__name__)

RESULT_FILE = "video-segmentation.json"


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
    claim_folder(output_dir, {**how, **model_identity(network)})
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
        # The last videos were the faulty ones.
        result = replace(result, skipped_files=tuple(faults), notes=tuple(faults.values()), partial=True)
        result.save(output_dir / RESULT_FILE)
    return result


def _measured(
    network: nn.Module, video: DavisVideo, output_dir: Path, settings: VideoSettings, stage: int | None, place: str
) -> VideoScores:
    """Scores of one video, from disk if an earlier run finished it."""
    file, contents = output_dir / "videos" / f"{video.name}.json", contents_of_files(video.frames + video.annotations)
    kept = finished_part(file, contents)
    if kept is not None:
        return VideoScores.from_dict(kept)
    annotations = video.read_annotations()
    first = torch.from_numpy(annotations[0])
    folder = output_dir / "masks" / video.name
    write_mask(folder / f"{video.frames[0].stem}.png", np.where(annotations[0] == VOID, 0, annotations[0]))
    seconds = []
    following = propagated_masks(network, video, first, settings, stage)
    bar = tqdm(
        following, f"{video.name} ({place})", len(video.frames) - 1, unit="frame", disable=not settings.progress
    )
    for frame, (mask, taken) in zip(video.frames[1:], bar, strict=True):
        write_mask(folder / f"{frame.stem}.png", mask.numpy())
        seconds.append(taken)
    masks = np.stack([read_mask(folder / f"{frame.stem}.png") for frame in video.frames])
    scores = score_video(video.name, torch.from_numpy(masks), torch.from_numpy(annotations), seconds)
    keep_part(file, contents, scores.to_dict())
    return scores


def _data_source(finished: Sequence[VideoScores], listed: int, split: str) -> DataSource:
    frames, objects = sum(each.num_frames for each in finished), sum(len(each.region) for each in finished)
    words = f"DAVIS {RESOLUTION}: {len(finished)} of {listed} videos, {objects} objects, {frames} frames"
    return DataSource("davis2017", split, frames, description=words)
