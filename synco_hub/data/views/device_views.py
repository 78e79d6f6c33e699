"""Two views in two halves: a worker crops and draws, the training device distorts a whole batch at once.

What a worker hands over is a quarter of the finished views in bytes and about an eighth of the work. The device flips,
jitters, grays, blurs, solarizes and normalises in float32 without rounding to 8 bits between the steps, which
`worker_views` does: the views of a draw differ by about a grey level, by more only where 8 bits keep the hue.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from synco_hub.data.views.draws import BLENDS, DRAW_ROW, ViewDraw, draw_row, draw_views
from synco_hub.data.views.parameters import TwoViewParameters
from synco_hub.data.views.worker_views import crop_resized, refuse_no_pixels

logger = logging.getLogger(__name__)

# An accelerator distorts so many pixels at once, 64 images of 224 px: the steps between crop and view take seven times
# the memory of the view.
PIECE_PIXELS = 64 * 224**2
# Columns of each part of a draw's row.
_WIDTHS = (1, BLENDS, BLENDS, BLENDS, 1, 1, 1, 1, 1)
assert sum(_WIDTHS) == len(DRAW_ROW)
# ITU-R 601, as Pillow's.
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)


class CroppedView(NamedTuple):
    """One view before its distortion.

    Attributes:
        crop: 8-bit RGB. Shape: (image_size, image_size, 3), uint8; of small views (local_crops, local_size,
            local_size, 3).
        draw: What is to be done with it, see `draw_row`. Shape: (len(DRAW_ROW),), float32; of small views
            (local_crops, len(DRAW_ROW)).
    """

    crop: torch.Tensor
    draw: torch.Tensor


class SplitTwoViewTransform:
    """The worker's half: the draws and crops of `TwoViewTransform`.

    Args:
        image_size: Height and width of a view in pixels.
        parameters: Table 11; None takes the paper's numbers.
    """

    def __init__(self, image_size: int, parameters: TwoViewParameters | None = None) -> None:
        refuse_no_pixels(image_size)
        self.image_size = image_size
        self.parameters = parameters or TwoViewParameters()

    def __call__(self, pixels: npt.NDArray[np.uint8], seed_key: int) -> tuple[CroppedView, ...]:
        """Draws the views and cuts them out, small ones last; no global random generator is read or moved.

        Args:
            pixels: RGB image of any size. Shape: (height, width, 3).
            seed_key: 64-bit key of the sample: `derive_random_key(seed, epoch, index)`.
        """
        height, width = pixels.shape[:2]
        both, local = draw_views(self.parameters, width, height, seed_key)
        views = [_cut_out(pixels, draw, self.image_size) for draw in both]
        if local:
            small = [_cut_out(pixels, draw, self.parameters.local_size) for draw in local]
            views.append(CroppedView(*(torch.stack(parts) for parts in zip(*small, strict=True))))
        return tuple(views)

    def device_half(self) -> DeviceViews:
        """What finishes these views on the training device."""
        half = DeviceViews(self.image_size, self.parameters)
        if self.parameters.local_crops:
            half.local = DeviceViews(self.parameters.local_size, self.parameters)
        return half

    def __repr__(self) -> str:
        return f"{type(self).__name__}(image_size={self.image_size}, parameters={self.parameters})"


def _cut_out(pixels: npt.NDArray[np.uint8], draw: ViewDraw, size: int) -> CroppedView:
    crop = torch.from_numpy(crop_resized(pixels, draw, size))
    return CroppedView(crop, torch.tensor(draw_row(draw), dtype=torch.float32))


def finish_views(half: DeviceViews | None, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both views of a batch, whoever makes them.

    Returns:
        View 1 and view 2. Shape of each: (batch, 3, height, width), float32.
    """
    if "draw_1" not in batch:
        return batch["view_1"], batch["view_2"]
    if half is None:
        raise ValueError(
            "the batch holds crops and draws, not views: finish them by SplitTwoViewTransform.device_half(), or make "
            "the views in the workers (--augment-on worker)."
        )
    return half(batch["view_1"], batch["draw_1"]), half(batch["view_2"], batch["draw_2"])


def finish_local_views(half: DeviceViews | None, batch: Mapping[str, Tensor]) -> Tensor | None:
    """The small views of a batch, whoever makes them; None where it has none.

    Returns:
        Shape: (batch, local_crops, 3, height, width), float32.
    """
    views = batch.get("local_views")
    if views is None or half is None or half.local is None or "local_draws" not in batch:
        return views
    finished: Tensor = half.local(views.flatten(0, 1), batch["local_draws"].flatten(0, 1))
    return finished.unflatten(0, views.shape[:2])


class DeviceViews(nn.Module):
    """Finishes cropped views. Holds no parameter and draws nothing: the same crops and draws give the same views.

    A CPU distorts a batch as a whole. An accelerator takes it in pieces of one size, at most `PIECE_PIXELS`, so that
    512 images of 224 px need 233 MiB beyond their views, and after `compile` one graph serves them all.

    Args:
        image_size: Height and width of a view in pixels.
        parameters: Kernel size, threshold, mean and standard deviation are read from here; None takes the paper's.

    Attributes:
        local: Finishes the small views, if there are any.
    """

    local: DeviceViews | None
    offsets: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, image_size: int, parameters: TwoViewParameters | None = None) -> None:
        super().__init__()
        parameters = parameters or TwoViewParameters()
        self.solarization_threshold = parameters.solarization_threshold / 255
        radius = min(parameters.blur_kernel_size(image_size) // 2, image_size - 1)
        self.register_buffer("offsets", _reflected_offsets(image_size, radius), persistent=False)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(parameters, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)
        self._compiled: Callable[[Tensor, Tensor], Tensor] | None = None
        self.local = None

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Distorts by `torch.compile`, whose arguments these are, from the next call on; without it where that fails.

        What is compiled is the work on one piece, so all batches of one size share it. Kernels that round in another
        order give views that differ in the last bits.
        """
        self._compiled = torch.compile(self._distort, *args, **kwargs)
        if self.local is not None:
            self.local.compile(*args, **kwargs)

    @torch.no_grad()
    def forward(self, crops: Tensor, draws: Tensor) -> Tensor:
        """Distorts and normalises.

        Args:
            crops: 8-bit RGB. Shape: (batch, image_size, image_size, 3), uint8.
            draws: One row an image, see `draw_row`. Shape: (batch, len(DRAW_ROW)), float32.

        Returns:
            The views. Shape: (batch, 3, image_size, image_size), float32.
        """
        distort = self._distort_fast if crops.device.type == "cpu" else self._distort_in_pieces
        return distort(crops, draws)

    def _distort_in_pieces(self, crops: Tensor, draws: Tensor) -> Tensor:
        number, side = crops.shape[:2]
        size = math.ceil(number / max(1, math.ceil(number * side**2 / PIECE_PIXELS))) or 1
        views = torch.empty((number, 3, side, side), device=crops.device)
        for begin in range(0, number, size):
            # The last piece reaches back into the one before: another size would be compiled anew.
            piece = slice(min(begin, number - size), min(begin, number - size) + size)
            views[piece] = self._distort_fast(crops[piece], draws[piece])
        return views

    def _distort_fast(self, crops: Tensor, draws: Tensor) -> Tensor:
        if self._compiled is not None:
            try:
                return self._compiled(crops, draws)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # whatever a compiler or its compiler may raise
                self._compiled = None
                # Dynamo's first line names the backend, the second what happened there.
                reason = " ".join(str(error).split("\n")[:2]).strip() or type(error).__name__
                logger.warning("views are distorted without torch.compile, which failed here: %s", reason)
        return self._distort(crops, draws)

    def _distort(self, crops: Tensor, draws: Tensor) -> Tensor:
        # Half precision would cost grey levels.
        with torch.autocast(device_type=crops.device.type, enabled=False):
            flip, factors, gray_shares, mean_shares, before_hue, hue, grayscale, sigma, solarize = draws.split(
                _WIDTHS, dim=1
            )
            flip, hue, grayscale, solarize = (value[:, :, None, None] for value in (flip, hue, grayscale, solarize))
            images = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
            images = torch.where(flip > 0, images.flip(3), images)
            images = _jitter_color(images, factors, gray_shares, mean_shares, before_hue, hue)
            images = torch.where(grayscale > 0, _gray(images), images)
            images = _blur(images, sigma[:, 0], self.offsets)
            inverted = (solarize > 0) & (images >= self.solarization_threshold)
            images = torch.where(inverted, 1 - images, images)
            return (images - self.mean) / self.std


def _gray(images: Tensor) -> Tensor:
    """The brightness that the eye sees. Shape: (batch, 3, height, width) to (batch, 1, height, width)."""
    red, green, blue = images.split(1, dim=1)
    weight_red, weight_green, weight_blue = _GRAY_WEIGHTS
    return (weight_red * red).add_(green, alpha=weight_green).add_(blue, alpha=weight_blue)


def _blend(images: Tensor, factor: Tensor, gray_share: Tensor, mean_share: Tensor) -> Tensor:
    """Brightness (both shares 0), contrast (mean_share 1) or saturation (gray_share 1), each image its own.

    factor · image + (1 − factor) · (gray_share · gray + mean_share · mean of gray), within [0, 1]; factor and shares
    have the shape (batch, 1, 1, 1).
    """
    gray = _gray(images)
    other = gray * gray_share + gray.mean(dim=(2, 3), keepdim=True) * mean_share
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 1)


def _adjust_hue(images: Tensor, hue: Tensor) -> Tensor:
    """Turns the colour circle, 1 is the whole of it; lightness and saturation stay. Hue: (batch, 1, 1, 1).

    Source: the formulas between RGB and HSV; the way back as V − C · clamp(min(k, 4 − k), 0, 1) with
        k = (n + 6 h) mod 6 and n = 5, 3, 1 for red, green and blue, which needs no table of six cases.
    """
    red, green, blue = images.split(1, dim=1)
    highest = images.amax(dim=1, keepdim=True)
    chroma = highest - images.amin(dim=1, keepdim=True)
    # A gray pixel has no hue: any will do, as long as nothing is divided by zero.
    safe = torch.where(chroma == 0, 1.0, chroma)
    sixth = torch.where(
        highest == red,
        (green - blue) / safe,
        torch.where(highest == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    offsets = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype)[:, None, None]  # 5, 3, 1
    place = torch.remainder(sixth + 6 * hue + offsets, 6)  # (batch, 3, height, width)
    return highest - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


def _jitter_color(
    images: Tensor, factors: Tensor, gray_shares: Tensor, mean_shares: Tensor, before_hue: Tensor, hue: Tensor
) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.

    The three blends are gone through twice, before and after the turn of the hue; each image takes each of them once
    and skips it the other time, by a factor of one, which changes no bit. Factors and shares, (batch, 3), are in each
    image's own order; before_hue, (batch, 1), says how many of the three come before the hue, (batch, 1, 1, 1).
    """
    for first_half in (True, False):
        for number in range(BLENDS):
            taken = (before_hue > number) == first_half  # (batch, 1)
            one = slice(number, number + 1)
            factor = torch.where(taken, factors[:, one], 1.0)
            images = _blend(
                images, factor[:, :, None, None], gray_shares[:, one, None, None], mean_shares[:, one, None, None]
            )
        if first_half:
            images = torch.where(hue == 0, images, _adjust_hue(images, hue))
    return images


def _reflected_offsets(image_size: int, radius: int) -> Tensor:
    """Where each tap of a kernel reaches, the image mirrored at its border without repeating the border pixel.

    For tap t, output pixel i and input pixel j: how often j lies at distance t from i, itself or as a mirror image.
    Shape: (radius + 1, image_size, image_size), float32; the radius is less than the size.
    """
    place = torch.arange(image_size)
    mirrors = torch.stack([place, -place, 2 * (image_size - 1) - place])  # (3, image_size) of j itself and beyond
    is_own_mirror = torch.stack([torch.zeros(image_size, dtype=torch.bool), place == 0, place == image_size - 1])
    distance = (place[None, :, None] - mirrors[:, None, :]).abs()  # (3, i, j)
    distance = distance.masked_fill(is_own_mirror[:, None, :], radius + 1)
    taps = torch.arange(radius + 1)[:, None, None, None]
    return (distance[None] == taps).sum(dim=1).float()


def _kernel_weights(sigma: Tensor, radius: int) -> Tensor:
    """One half of each kernel, the middle first: weights that sum to one over the whole kernel; sigma 0 is no blur.

    Shape: (batch,) to (batch, radius + 1).
    """
    taps = torch.arange(radius + 1, device=sigma.device, dtype=sigma.dtype)
    width = torch.where(sigma > 0, sigma, 1.0)[:, None]
    weights = torch.exp(-0.5 * (taps / width) ** 2)
    weights = weights / (2 * weights.sum(dim=1, keepdim=True) - weights[:, :1])
    return torch.where((sigma > 0)[:, None], weights, (taps == 0).to(sigma.dtype))


def _blur(images: Tensor, sigma: Tensor, offsets: Tensor) -> Tensor:
    """Blurs each image with its own Gaussian, of `sigma` (batch,) pixels and the reach of `_reflected_offsets`.

    A convolution with a kernel per image would be a grouped one with 3 · batch groups, which no library is good at;
    blurring rows and columns by a banded matrix per image is what accelerators are made for.
    """
    weights = _kernel_weights(sigma, offsets.shape[0] - 1)
    matrix = (weights @ offsets.flatten(1)).unflatten(1, offsets.shape[1:])  # (batch, size, size)
    matrix = matrix[:, None]
    return matrix @ images @ matrix.mT
