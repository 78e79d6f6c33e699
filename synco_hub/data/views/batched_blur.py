"""Gaussian blur of a batch of images at once, every image with its own width, as two products of matrices."""

import torch
from torch import Tensor


def reflected_offsets(image_size: int, radius: int) -> Tensor:
    """Where each tap of a kernel reaches, the image mirrored at its border without repeating the border pixel.

    Args:
        image_size: Pixels of a row, more than one.
        radius: Reach of the kernel in pixels, less than `image_size`.

    Returns:
        For tap t, output pixel i and input pixel j: how often j lies at distance t from i, itself or as a mirror
        image. Shape: (radius + 1, image_size, image_size), float32.
    """
    place = torch.arange(image_size)
    mirrors = torch.stack([place, -place, 2 * (image_size - 1) - place])  # (3, image_size) of j itself and beyond
    is_own_mirror = torch.stack([torch.zeros(image_size, dtype=torch.bool), place == 0, place == image_size - 1])
    distance = (place[None, :, None] - mirrors[:, None, :]).abs()  # (3, i, j)
    distance = distance.masked_fill(is_own_mirror[:, None, :], radius + 1)
    taps = torch.arange(radius + 1)[:, None, None, None]
    return (distance[None] == taps).sum(dim=1).float()


def kernel_weights(sigma: Tensor, radius: int) -> Tensor:
    """One half of each kernel, the middle first.

    Args:
        sigma: Standard deviations in pixels; 0 is no blur. Shape: (batch,).
        radius: Where the Gaussian is cut off.

    Returns:
        Weights that sum to one over the whole kernel. Shape: (batch, radius + 1).
    """
    taps = torch.arange(radius + 1, device=sigma.device, dtype=sigma.dtype)
    width = torch.where(sigma > 0, sigma, 1.0)[:, None]
    weights = torch.exp(-0.5 * (taps / width) ** 2)
    weights = weights / (2 * weights.sum(dim=1, keepdim=True) - weights[:, :1])
    return torch.where((sigma > 0)[:, None], weights, (taps == 0).to(sigma.dtype))


def blurred(images: Tensor, sigma: Tensor, offsets: Tensor) -> Tensor:
    """Blurs each image with its own Gaussian.

    A convolution with a kernel per image would be a grouped one with 3 · batch groups, which no library is good at;
    blurring rows and columns by a banded matrix per image is what accelerators are made for.

    Args:
        images: Shape: (batch, channels, size, size).
        sigma: Standard deviations in pixels; 0 is no blur. Shape: (batch,).
        offsets: Of `reflected_offsets`. Shape: (radius + 1, size, size).

    Returns:
        Shape: (batch, channels, size, size).
    """
    weights = kernel_weights(sigma, offsets.shape[0] - 1)
    matrix = (weights @ offsets.flatten(1)).unflatten(1, offsets.shape[1:])  # (batch, size, size)
    matrix = matrix[:, None]
    return matrix @ images @ matrix.mT
