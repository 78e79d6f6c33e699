"""Colour jitter and gray for a batch of images at once, every image with its own factors and its own order."""

import torch
from torch import Tensor

from synco_hub.data.views.draw_row import BLENDS

# ITU-R 601, as Pillow's.
_GRAY_WEIGHTS = (0.299, 0.587, 0.114)


def gray_of(images: Tensor) -> Tensor:
    """The brightness that the eye sees.

    Args:
        images: RGB. Shape: (batch, 3, height, width).

    Returns:
        Shape: (batch, 1, height, width).
    """
    red, green, blue = images.split(1, dim=1)
    weight_red, weight_green, weight_blue = _GRAY_WEIGHTS
    return (weight_red * red).add_(green, alpha=weight_green).add_(blue, alpha=weight_blue)


def blend(images: Tensor, factor: Tensor, gray_share: Tensor, mean_share: Tensor) -> Tensor:
    """Brightness, contrast or saturation, each image its own.

    Args:
        images: Channel values in [0, 1]. Shape: (batch, 3, height, width).
        factor: 1 changes nothing. Shape: (batch, 1, 1, 1).
        gray_share: 1 for saturation, else 0. Shape: (batch, 1, 1, 1).
        mean_share: 1 for contrast, else 0; both 0 is brightness. Shape: (batch, 1, 1, 1).

    Returns:
        factor · image + (1 − factor) · (gray_share · gray + mean_share · mean of gray), within [0, 1].
        Shape: (batch, 3, height, width).
    """
    gray = gray_of(images)
    other = gray * gray_share + gray.mean(dim=(2, 3), keepdim=True) * mean_share
    return (images * factor).add_(other * (1 - factor)).clamp_(0, 1)


def turned_hue(images: Tensor, hue: Tensor) -> Tensor:
    """Turns the colour circle.

    Args:
        images: Channel values in [0, 1]. Shape: (batch, 3, height, width).
        hue: Turn, 1 is the whole circle. Shape: (batch, 1, 1, 1).

    Returns:
        Lightness and saturation as they were. Shape: (batch, 3, height, width).

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


def jittered(
    images: Tensor, factors: Tensor, gray_shares: Tensor, mean_shares: Tensor, before_hue: Tensor, hue: Tensor
) -> Tensor:
    """Brightness, contrast, saturation and hue, each image in its own order.

    The three blends are gone through twice, before and after the turn of the hue; each image takes each of them once
    and skips it the other time, by a factor of one, which changes no bit.

    Args:
        images: Channel values in [0, 1]. Shape: (batch, 3, height, width).
        factors: In each image's own order. Shape: (batch, 3).
        gray_shares: See `blend`. Shape: (batch, 3).
        mean_shares: See `blend`. Shape: (batch, 3).
        before_hue: How many of the three come before the hue. Shape: (batch, 1).
        hue: Shape: (batch, 1, 1, 1).

    Returns:
        Shape: (batch, 3, height, width).
    """
    for first_half in (True, False):
        for number in range(BLENDS):
            taken = (before_hue > number) == first_half  # (batch, 1)
            one = slice(number, number + 1)
            factor = torch.where(taken, factors[:, one], 1.0)
            images = blend(
                images, factor[:, :, None, None], gray_shares[:, one, None, None], mean_shares[:, one, None, None]
            )
        if first_half:
            images = torch.where(hue == 0, images, turned_hue(images, hue))
    return images
