"""One unit vector an image for retrieval: aspect ratio kept, original resolution, several scales, resumable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from synco_hub.data import decode_rgb
from synco_hub.evaluation.dense.any_size import any_size_features, cut_to_patches, patch_sides, pixel_values
from synco_hub.evaluation.measurement.image_contents import contents_of_files
from synco_hub.evaluation.measurement.resumable_folder import finished_tensors, keep_tensors
from synco_hub.feature_adapter import FeatureRule, feature_network, feature_rule
from synco_hub.features import ExtractionSettings, check_finite
from synco_hub.frozen import frozen

# Images of one file on disk: what a killed run has to compute again at most.
BLOCK = 128


@dataclass(frozen=True)
class RetrievalInput:
    """How an image becomes the network's input.

    Attributes:
        max_side: Longest side in pixels; larger images are reduced, none is enlarged. 1024 is that of the benchmarks'
            own files, so that they stay as they are. None for no limit.
        scales: Factors at which the image is seen; the features of all are averaged.
        crop_queries: Whether only the box of a query is seen (the official protocol; DINO's script sees all of it).
        mean: Of each channel.
        std: Of each channel.

    Raises:
        ValueError: If a number is out of range.
    """

    max_side: int | None = 1024
    scales: tuple[float, ...] = (1.0, 1 / math.sqrt(2), 0.5)
    crop_queries: bool = True
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side={self.max_side} is not positive: the benchmark's images have 1024")
        if not self.scales or not all(0 < scale <= 4 for scale in self.scales):
            raise ValueError(f"scales={self.scales}: give at least one factor in (0, 4], such as 1 and 0.5")


@dataclass(frozen=True)
class SearchedImage:
    """A file, and the box of it that is seen; None for all of it."""

    file: Path
    box: tuple[float, float, float, float] | None = None


def retrieval_vectors(
    model: nn.Module,
    images: Sequence[SearchedImage],
    form: RetrievalInput,
    settings: ExtractionSettings,
    title: str,
    folder: Path | None = None,
) -> Tensor:
    """Compute the unit vector of every image, one image a forward pass.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows and that takes images of any size.
        images: Files and boxes.
        form: How an image becomes the network's input.
        settings: Workers, device, arithmetic, progress; the batch size does not matter here.
        title: Of the progress bar and of the files on disk.
        folder: Where finished blocks are kept and taken from; None keeps nothing.

    Returns:
        Float32, unit norm, on the CPU. Shape: (images, dim).

    Raises:
        UnreadableImageError: If an image cannot be decoded: the benchmark allows none to be left out.
        ValueError: If features are NaN, or the model cannot take images of any size.
    """
    parts = []
    with (
        frozen(feature_network(model), settings.device) as network,
        tqdm(total=len(images), desc=title, unit="img", disable=not settings.progress) as bar,
    ):
        for start in range(0, len(images), BLOCK):
            block = images[start : start + BLOCK]
            file = None if folder is None else folder / f"{title}-{start:06d}.safetensors"
            contents = "" if file is None else contents_of_files([image.file for image in block])
            kept = None if file is None else finished_tensors(file, contents)
            if kept is not None:
                vectors = kept["vectors"]
                bar.update(len(block))
            else:
                vectors = _computed(network, feature_rule(model), block, form, settings, bar)
                check_finite(vectors, torch.arange(start, start + len(block)))
                vectors = F.normalize(vectors, dim=1)
                if file is not None:
                    keep_tensors(file, contents, {"vectors": vectors})
            parts.append(vectors)
    return torch.cat(parts)


def multi_scale_features(network: nn.Module, pixels: Tensor, rule: FeatureRule, scales: Sequence[float]) -> Tensor:
    """Mean of the features at several scales.

    Args:
        network: What :func:`synco_hub.feature_adapter.feature_network` gave.
        pixels: Normalised. Shape: (1, channels, height, width).
        rule: Which feature.
        scales: Factors; at 1 the pixels stay as they are.

    Returns:
        Not normalised. Shape: (1, dim).

    Source: the multi-scale features of DINO's retrieval script.
    """
    sides = patch_sides(network)
    total = None
    for scale in scales:
        scaled = pixels
        if scale != 1:
            size = [max(math.floor(side * scale), 1) for side in pixels.shape[-2:]]
            scaled = F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        features = any_size_features(network, cut_to_patches(scaled, sides), rule).float()
        total = features if total is None else total + features
    assert total is not None
    return total / len(scales)


def seen_image(image: SearchedImage, form: RetrievalInput) -> Image.Image:
    """Decode an image, take its box, reduce it by the factor that brings the *whole* image to the longest side.

    So a query's box keeps the scale of the database images, whatever part of its image it is.
    """
    picture = decode_rgb(image.file)
    factor = 1.0 if form.max_side is None else min(form.max_side / max(picture.size), 1.0)
    if image.box is not None and form.crop_queries:
        left, top, right, bottom = (round(side) for side in image.box)
        inside = max(left, 0), max(top, 0), min(right, picture.width), min(bottom, picture.height)
        if inside[0] >= inside[2] or inside[1] >= inside[3]:
            raise ValueError(
                f"{image.file.name} is {picture.width}x{picture.height}, the query's box {image.box} lies outside: "
                "use the benchmark's own image files"
            )
        picture = picture.crop(inside)
    if factor == 1.0:
        return picture
    size = max(round(picture.width * factor), 1), max(round(picture.height * factor), 1)
    return picture.resize(size, Image.Resampling.LANCZOS)


class _SeenImages(Dataset[Tensor]):
    def __init__(self, images: Sequence[SearchedImage], form: RetrievalInput) -> None:
        self._images, self._form = images, form

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        return pixel_values(seen_image(self._images[index], self._form), self._form.mean, self._form.std)


def _computed(
    network: nn.Module,
    rule: FeatureRule,
    images: Sequence[SearchedImage],
    form: RetrievalInput,
    settings: ExtractionSettings,
    bar: Any,
) -> Tensor:
    device = next(network.parameters()).device
    rows = []
    loader = DataLoader(_SeenImages(images, form), batch_size=None, num_workers=settings.num_workers)
    for pixels in cast("Any", loader):
        autocast = torch.autocast(device.type, dtype=settings.dtype, enabled=settings.dtype is not None)
        with torch.inference_mode(), autocast:
            rows.append(multi_scale_features(network, pixels.to(device), rule, form.scales).cpu())
        bar.update(1)
    return torch.cat(rows)
