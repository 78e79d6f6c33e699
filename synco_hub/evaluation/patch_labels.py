"""From pixels to patches and back: a model's look at an image, a memory of labelled patches, classes of pixels."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from synco_hub.data.image_dataset import fingerprint
from synco_hub.data.masked_images import VOID, Mask, MaskedImages
from synco_hub.evaluation.dense_features import (
    choose_stage,
    compute_dense_features,
    find_feature_stride,
    pad_to_patches,
    patch_sides,
    pixel_values,
)
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.resume import ResumableFolder
from synco_hub.feature_pooling import (
    find_expected_image_size,
    find_feature_network,
    find_image_config,
    patch_embedding,
)
from synco_hub.features import eval_mode
from synco_hub.settings import SegmentationSettings
from synco_hub.visualization import attends_in_windows

_USUAL_SIDE = 224
# Scores of so many pixels and classes are interpolated at once.
_SCORES_AT_ONCE = 16_000_000
# Images of one file on disk: what a killed run has to look at again at most.
_BLOCK = 256

# From patch features (patches, dim) to scores (patches, classes).
Probe = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PatchLook:
    """How a model looks at an image, patch by patch.

    Attributes:
        model: The model.
        stage: Of a Swin, from 1.
        patch: Height and width in pixels that a feature stands for.
        side: Shorter side of a resized image, in pixels.
        stride: Pixels between windows; None sees the whole image.
        device: Where the network is.
    """

    model: EvaluatedModel
    stage: int | None
    patch: tuple[int, int]
    side: int
    stride: int | None
    device: torch.device

    @classmethod
    def of(cls, model: EvaluatedModel, settings: SegmentationSettings) -> PatchLook:
        """The settings' look, checked on an empty image."""
        network = find_feature_network(model.network)
        stage, patch = _find_grid(network, settings.stage)
        side = settings.side or max(find_expected_image_size(network) or (_USUAL_SIDE,))
        if side < max(patch):
            raise ValueError(f"side={side} is less than the model's patches of {max(patch)} pixels: give more")
        if settings.stride is not None:
            for name, value, unit in (("stride", settings.stride, max(patch)), ("side", side, max(patch))):
                if value % unit:
                    raise ValueError(
                        f"{name}={value} is no multiple of the patches of {unit} pixels: windows need one"
                    )
            if settings.stride > side:
                raise ValueError(f"stride={settings.stride} is more than side={side}: windows would leave gaps")
        device = torch.device(settings.device or next(network.parameters()).device)
        look = cls(model, stage, patch, side, settings.stride, device)
        blank = Image.new("RGB", (side, side))
        with eval_mode(network, device):
            size, windows = look.features(blank)
            (_, _, found) = next(windows)
        expected = tuple(math.ceil(length / unit) for length, unit in zip(size, patch, strict=True))
        if patch == (1, 1) or tuple(found.shape[:2]) != expected:
            raise ValueError(
                f"{model.name!r} has no patch features ({type(network).__name__} cuts no patches of one size): give a "
                "ViT or a Swin."
            )
        return look

    def facts(self) -> dict[str, Any]:
        """JSON values for a result."""
        return {
            **{"side": self.side, "window_stride": self.stride, "stage": self.stage, "patch": list(self.patch)},
            **{"mean": list(self.model.mean), "std": list(self.model.std)},
        }

    def features(self, image: Image.Image) -> tuple[tuple[int, int], Iterator[tuple[int, int, Tensor]]]:
        """Height and width of the resized image, and for each window its first row and column and its features.

        Rows and columns count patches; features have the shape (rows, columns, dim).
        """
        scale = self.side / min(image.size)
        width, height = (max(round(side * scale), 1) for side in image.size)
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        pixels = pad_to_patches(pixel_values(resized, self.model.mean, self.model.std), self.patch).to(self.device)
        return (height, width), self._windows(pixels)

    def _windows(self, pixels: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        places = [(0, 0, *pixels.shape[-2:])]
        if self.stride is not None:
            tops, lefts = (window_starts(length, self.side, self.stride) for length in pixels.shape[-2:])
            places = [(top, left, self.side, self.side) for top in tops for left in lefts]
        for top, left, height, width in places:
            window = pixels[..., top : top + height, left : left + width]
            found = compute_dense_features(self.model.network, window, self.stage)[0]
            if not bool(torch.isfinite(found).all()):
                raise ValueError(f"features of {self.model.name!r} are NaN or infinite: check the checkpoint")
            yield top // self.patch[0], left // self.patch[1], found


def _find_grid(network: nn.Module, stage: int | None) -> tuple[int | None, tuple[int, int]]:
    """The stage of a Swin that is read, and the pixels that a feature stands for; 1 and 1 without patches."""
    height, width = patch_sides(network)
    if attends_in_windows(network) and patch_embedding(network) is None:
        # Of a Swin of transformers only the last map is to be had.
        if stage is not None:
            raise ValueError(f"stage={stage}: {type(network).__name__} gives its last map only, leave --stage out")
        halvings = len(find_image_config(network).depths) - 1
        return None, (height * 2**halvings, width * 2**halvings)
    stage = choose_stage(network, stage)
    return stage, (height, width) if (height, width) == (1, 1) else find_feature_stride(network, stage)


def window_starts(length: int, side: int, stride: int) -> list[int]:
    """Where windows begin along an axis: a stride apart, the last one at the end."""
    last = max(length - side, 0)
    return [*range(0, last, stride), last]


def patch_labels(mask: Tensor, size: tuple[int, int], patch: tuple[int, int], num_classes: int) -> Tensor:
    """The share of each class among a patch's pixels; what has no class counts for none.

    Args:
        mask: Classes, 255 for none, at the image's own size. Shape: (height, width).
        size: Height and width of the resized image, to which the mask is brought by nearest pixels.
        patch: Height and width of a patch of the resized image.
        num_classes: How many classes there are.

    Returns:
        Shape: (rows, columns, num_classes).
    """
    resized = F.interpolate(mask[None, None].float(), size, mode="nearest-exact")[0, 0].long()
    rows, columns = (math.ceil(side / unit) for side, unit in zip(size, patch, strict=True))
    row = torch.arange(size[0]) // patch[0]
    column = torch.arange(size[1]) // patch[1]
    place = (row[:, None] * columns + column) * num_classes + resized
    counts = torch.bincount(place[resized != VOID], minlength=rows * columns * num_classes)
    return counts.reshape(rows, columns, num_classes).float() / (patch[0] * patch[1])


@dataclass(frozen=True)
class PatchMemory:
    """Training patches.

    Attributes:
        values: Features, float16. Shape: (patches, dim).
        labels: Share of each class, float16. Shape: (patches, classes).
    """

    values: Tensor
    labels: Tensor

    @classmethod
    def of(
        cls,
        look: PatchLook,
        images: MaskedImages,
        num_classes: int,
        settings: SegmentationSettings,
        kept: ResumableFolder | None = None,
        identity: str = "",
    ) -> PatchMemory:
        """Draw as many patches from every image; those without a class are left out.

        Blocks of images that an interrupted measurement of this `identity` kept are taken from there.
        """
        kept = kept or ResumableFolder(None, {})
        # Cut at the end, a memory would miss the last images, which in folders of classes are those of the last class.
        ends = [place * settings.memory_size // len(images) for place in range(len(images) + 1)]
        generator = torch.Generator().manual_seed(settings.seed)
        values, labels, contents = [], [], fingerprint(identity, str(len(images)))
        with tqdm(total=len(images), desc="training patches", unit="img", disable=not settings.progress) as bar:
            for number, start in enumerate(range(0, len(images), _BLOCK)):
                block = range(start, min(start + _BLOCK, len(images)))
                if kept.path is not None:
                    # The draws go on from image to image, so that a block depends on all before it.
                    contents = fingerprint(contents, images.take(block).fingerprint())
                name = f"patches/{number:05}.safetensors"
                part = kept.load_tensors(name, contents)
                if part is None:
                    drawn = []
                    for index in block:
                        if quota := ends[index + 1] - ends[index]:
                            image, mask = images.read(index)
                            drawn.append(_draw_patches(look, image, mask, num_classes, quota, generator))
                        bar.update()
                    if not drawn:
                        continue
                    part = dict(zip(("values", "labels"), map(torch.cat, zip(*drawn, strict=True)), strict=True))
                    kept.save_tensors(name, contents, {**part, "generator": generator.get_state()})
                else:
                    generator.set_state(part["generator"])
                    bar.update(len(block))
                values.append(part["values"])
                labels.append(part["labels"])
        memory = cls(torch.cat(values), torch.cat(labels))
        if len(memory.values) == 0:
            raise ValueError(
                f"no pixel of {images.name!r} ({images.split}) has a class: every mask is {VOID} throughout."
            )
        if not bool(torch.isfinite(memory.values).all()):
            raise ValueError(f"features of {look.model.name!r} exceed the range of float16: use another checkpoint")
        return memory

    def facts(self) -> dict[str, Any]:
        """JSON values for a result."""
        size = sum(each.numel() * each.element_size() for each in (self.values, self.labels))
        return {"memory_patches": len(self.values), "memory_bytes": size}

    def fingerprint(self) -> str:
        """Hash of features and labels."""
        digest = hashlib.sha256(str(tuple(self.values.shape)).encode())
        for each in (self.values, self.labels):
            digest.update(each.contiguous().numpy().data)
        return digest.hexdigest()[:16]


def _draw_patches(
    look: PatchLook, image: Image.Image, mask: Mask, num_classes: int, quota: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features and labels of so many patches of an image, or of all that have a class."""
    size, windows = look.features(image)
    shares = patch_labels(torch.from_numpy(mask), size, look.patch, num_classes)
    found, known = [], []
    for top, left, features in windows:
        rows, columns = features.shape[:2]
        here = shares[top : top + rows, left : left + columns].reshape(-1, num_classes)
        kept = here.sum(dim=1) > 0
        found.append(features.reshape(rows * columns, -1).cpu()[kept].half())
        known.append(here[kept].half())
    together, labels = torch.cat(found), torch.cat(known)
    chosen = torch.randperm(len(together), generator=generator)[:quota]
    return together[chosen], labels[chosen]


@torch.no_grad()
def score_patches(look: PatchLook, image: Image.Image, probes: Sequence[Probe]) -> list[Tensor]:
    """Scores of an image's patches by each probe, the mean over the windows that see a patch.

    Returns:
        For each probe on the CPU, shape (rows, columns, classes).
    """
    size, windows = look.features(image)
    rows, columns = (math.ceil(side / unit) for side, unit in zip(size, look.patch, strict=True))
    sums: list[Tensor | None] = [None] * len(probes)
    times = torch.zeros(rows, columns, 1)
    for top, left, features in windows:
        height, width = features.shape[:2]
        times[top : top + height, left : left + width] += 1
        for number, probe in enumerate(probes):
            scores = probe(features.reshape(height * width, -1)).unflatten(0, (height, width)).cpu()
            total = sums[number]
            if total is None:
                total = sums[number] = torch.zeros(rows, columns, scores.shape[-1])
            total[top : top + height, left : left + width] += scores
    return [total / times for total in sums if total is not None]


def label_pixels(scores: Tensor, resized: tuple[int, ...], patch: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The class with the highest score at each pixel, scores interpolated bilinearly between the patches' middles.

    In strips of rows, since the scores of all classes at all pixels of a photograph can be gigabytes.

    Args:
        scores: Shape: (rows, columns, classes).
        resized: Height and width of the resized image, without what filled the last patches.
        patch: Height and width of a patch of it.
        size: Height and width of the image itself.

    Returns:
        Classes. Shape: `size`.
    """
    row, column = (
        ((torch.arange(size[axis]) + 0.5) * resized[axis] / size[axis] / patch[axis] - 0.5).clamp(
            0, scores.shape[axis] - 1
        )
        for axis in (0, 1)
    )
    wide = _between(scores.transpose(0, 1), column)  # (width, rows, classes)
    strip = max(_SCORES_AT_ONCE // (size[1] * scores.shape[-1]), 1)
    parts = [_between(wide.transpose(0, 1), part).argmax(dim=-1) for part in row.split(strip)]
    return torch.cat(parts)


def _between(values: Tensor, places: Tensor) -> Tensor:
    """Values along the first axis at places between its whole numbers."""
    low = places.floor().long()
    high = (low + 1).clamp(max=len(values) - 1)
    share = (places - low).reshape(-1, *[1] * (values.ndim - 1))
    return values[low] * (1 - share) + values[high] * share
