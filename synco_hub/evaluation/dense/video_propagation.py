"""The objects of a video's first frame, followed from frame to frame by the likeness of frozen patch features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from synco_hub.data import decode_rgb
from synco_hub.data.davis import VOID, DavisVideo
from synco_hub.evaluation.dense.any_size import pixel_values
from synco_hub.evaluation.dense.dense_features import dense_features, feature_stride
from synco_hub.evaluation.dense.label_propagation import (
    LabelPropagation,
    PropagationSettings,
    labels_to_mask,
    one_hot_patches,
)
from synco_hub.evaluation.efficiency import wait_for

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
        stage: What :func:`synco_hub.evaluation.dense.dense_features.chosen_stage` gave.

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
