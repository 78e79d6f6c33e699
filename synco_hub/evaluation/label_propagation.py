"""Labels of a video's first frame carried to the next ones by the likeness of patch features.

Each patch takes the labels of the patches that are most like it among those near its place in the context frames
(the first frame and the last few), weighted by exp(cosine / temperature). Nothing is trained.

Source: Jabri et al., "Space-time correspondence as a contrastive random walk" (2020), and its use in DINO (Caron et
al., 2021), whose numbers are the defaults.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

# Patches of a tile: its scores are (area, context patches near the tile), the only large array.
_TILE_ROWS, _TILE_COLUMNS = 10, 26


@dataclass(frozen=True)
class PropagationSettings:
    """How labels travel.

    Attributes:
        num_previous: Frames before the present one that give labels, beside the first frame of the video.
        topk: Patches that give labels, of all context frames together.
        radius: Rows and columns around a patch's own place from which they are taken; 0 for no limit.
        temperature: Of the weights.
    """

    num_previous: int = 7
    topk: int = 5
    radius: int = 12
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.num_previous < 0 or self.radius < 0:
            raise ValueError(
                f"num_previous={self.num_previous}, radius={self.radius}: neither can be negative; DINO's are 7 and 12"
            )
        if self.topk < 1 or self.temperature <= 0:
            raise ValueError(
                f"topk={self.topk}, temperature={self.temperature}: both are positive; DINO's are 5 and 0.1"
            )


def propagate_labels(features: Tensor, context: Tensor, labels: Tensor, settings: PropagationSettings) -> Tensor:
    """Labels of one frame from those of its context.

    Patches whose weight equals the k-th largest all take part, so that the result depends on no order. Memory is
    that of one tile's scores, whatever the size of the frame.

    Args:
        features: Of the frame, unit norm. Shape: (rows, columns, dim).
        context: Of the context frames, unit norm. Shape: (frames, rows, columns, dim).
        labels: Share of each object at each context patch. Shape: (frames, rows, columns, objects).
        settings: How labels travel.

    Returns:
        Shape: (rows, columns, objects).
    """
    rows, columns = features.shape[:2]
    radius = settings.radius or max(rows, columns)
    result = labels.new_empty(rows, columns, labels.shape[-1])
    for top in range(0, rows, _TILE_ROWS):
        for left in range(0, columns, _TILE_COLUMNS):
            bottom, right = min(top + _TILE_ROWS, rows), min(left + _TILE_COLUMNS, columns)
            near = (
                slice(None),
                slice(max(top - radius, 0), min(bottom + radius, rows)),
                slice(max(left - radius, 0), min(right + radius, columns)),
            )
            tile = features[top:bottom, left:right].flatten(0, 1)
            scores = tile @ context[near].flatten(0, 2).T  # (tile, frames * near rows * near columns)
            beyond = _beyond((top, bottom, left, right), near[1], near[2], radius, features.device)
            scores.unflatten(1, (-1, beyond.shape[1])).masked_fill_(beyond[:, None], -torch.inf)
            taken = _weighted(scores, labels[near].flatten(0, 2), settings)
            result[top:bottom, left:right] = taken.unflatten(0, (bottom - top, right - left))
    return result


def _weighted(scores: Tensor, labels: Tensor, settings: PropagationSettings) -> Tensor:
    """Shape: (patches, sources) and (sources, objects) to (patches, objects)."""
    least = scores.topk(min(settings.topk, scores.shape[1]), dim=1, sorted=True).values[:, -1:]
    unlike = scores < least
    weights = scores.div_(settings.temperature).exp_().masked_fill_(unlike, 0.0)
    return (weights @ labels) / weights.sum(dim=1, keepdim=True)


def _beyond(
    tile: tuple[int, int, int, int], near_rows: slice, near_columns: slice, radius: int, device: torch.device
) -> Tensor:
    """Which near patches are farther than the radius from each patch of the tile. Shape: (tile, near)."""
    top, bottom, left, right = tile

    def far(first: int, last: int, near: slice) -> Tensor:
        places = torch.arange(first, last, device=device)[:, None]
        return (places - torch.arange(near.start, near.stop, device=device)).abs() > radius

    row, column = far(top, bottom, near_rows), far(left, right, near_columns)
    return (row[:, None, :, None] | column[None, :, None, :]).flatten(0, 1).flatten(1, 2)


class LabelPropagation:
    """The labels of a video, frame after frame; keeps no more than its context frames.

    Args:
        features: Of the first frame. Shape: (rows, columns, dim).
        labels: Share of each object at each patch of it. Shape: (rows, columns, objects).
        settings: How labels travel.
    """

    def __init__(self, features: Tensor, labels: Tensor, settings: PropagationSettings | None = None) -> None:
        self.settings = settings or PropagationSettings()
        self._first = (F.normalize(features, dim=-1), labels.float())
        self._previous: deque[tuple[Tensor, Tensor]] = deque(maxlen=self.settings.num_previous)

    def step(self, features: Tensor) -> Tensor:
        """Labels of the next frame.

        Args:
            features: Shape: (rows, columns, dim).

        Returns:
            Shape: (rows, columns, objects).
        """
        unit = F.normalize(features, dim=-1)
        context, labels = zip(self._first, *self._previous, strict=True)
        result = propagate_labels(unit, torch.stack(context), torch.stack(labels), self.settings)
        self._previous.append((unit, result))
        return result


def encode_patches(mask: Tensor, grid: tuple[int, int], num_objects: int) -> Tensor:
    """The labels of a mask at the centres of patches (nearest pixel), the background first.

    Args:
        mask: Indices of objects. Shape: (height, width).
        grid: Rows and columns of patches.
        num_objects: Objects beside the background; other indices count as background.

    Returns:
        Shape: (rows, columns, 1 + num_objects).
    """
    known = torch.where(mask <= num_objects, mask, 0)
    return F.one_hot(find_nearest_pixels(known, grid).long(), num_objects + 1).float()


def convert_labels_to_mask(
    labels: Tensor, grown: tuple[int, int], seen: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Shares of objects on patches as a mask of pixels.

    Bilinear upsampling to the network's input, each object stretched to [0, 1], the largest wins, nearest pixel to
    the size of the video.

    Args:
        labels: Shape: (rows, columns, objects).
        grown: Height and width in pixels that the patches cover.
        seen: Height and width of the network's input; the patches may cover more (a padded Swin).
        size: Height and width of the video.

    Returns:
        Indices of objects, uint8. Shape: (height, width).
    """
    maps = F.interpolate(labels.permute(2, 0, 1)[None], size=grown, mode="bilinear", align_corners=False)[0]
    maps = maps[:, : seen[0], : seen[1]]
    lowest = maps.amin(dim=(1, 2), keepdim=True)
    stretched = maps - lowest
    highest = stretched.amax(dim=(1, 2), keepdim=True)
    # An object that is nowhere stays nowhere; one that is everywhere alike becomes 0, as in DINO's script.
    stretched = torch.where(maps.amax(dim=(1, 2), keepdim=True) > 0, stretched / highest.clamp_min(1e-12), maps)
    return find_nearest_pixels(stretched.argmax(dim=0).to(torch.uint8), size)


def find_nearest_pixels(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize indices by taking the pixel under each new pixel's centre.

    Args:
        mask: Shape: (height, width).
        size: New height and width.

    Returns:
        Shape: (new height, new width).
    """
    picked = [
        # In whole numbers: floor((i + 1/2) * old / new).
        (2 * torch.arange(new, device=mask.device) + 1) * old // (2 * new)
        for old, new in zip(mask.shape, size, strict=True)
    ]
    return mask[picked[0][:, None], picked[1][None]]
