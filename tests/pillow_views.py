"""Two distorted views of one image by Pillow and torchvision: the slow way that the package's ways are tested against.

The steps are BYOL's: crop and resize, mirror, colour jitter, gray, blur, solarize, normalise. Decoded images are
Pillow's, so the 8-bit steps run in Pillow's C code behind torchvision's transforms v2. Only the blur is written out
here, as two one-dimensional passes: torchvision convolves with the full square kernel, at 224 pixels five times the
work for the same result.
"""

import math

import numpy as np
import numpy.typing as npt
import torch
import torchvision.transforms.v2.functional as transforms
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode

from synco_hub.data.views.draws import ColorJitterDraw, ViewDraw, draw_view
from synco_hub.data.views.parameters import TwoViewParameters


class PillowTwoViewTransform:
    """Turns an image into view 1 (by T_q) and view 2 (by T_k).

    Args:
        image_size: Height and width of a view in pixels.
        parameters: Table 11; None takes the paper's numbers.
    """

    def __init__(self, image_size: int, parameters: TwoViewParameters | None = None) -> None:
        self.image_size = image_size
        self.parameters = parameters or TwoViewParameters()

    def __call__(self, image: Image.Image, seed_key: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws and makes both views; no global random generator is read or moved.

        Args:
            image: RGB image of any size.
            seed_key: 64-bit key of the sample: `derive_random_key(seed, epoch, index)`.

        Returns:
            View 1 and view 2, normalised. Shape of each: (3, image_size, image_size), float32.
        """
        first, second = (
            apply_view(
                image, draw_view(self.parameters, view, *image.size, seed_key), self.image_size, self.parameters
            )
            for view in (0, 1)
        )
        return first, second

    def __repr__(self) -> str:
        return f"{type(self).__name__}(image_size={self.image_size}, parameters={self.parameters})"


def apply_view(image: Image.Image, draw: ViewDraw, image_size: int, parameters: TwoViewParameters) -> torch.Tensor:
    """Makes the view that was drawn.

    Args:
        image: RGB image.
        draw: What is random about the view.
        image_size: Height and width of the view in pixels.
        parameters: Kernel size, threshold, mean and standard deviation are read from here.

    Returns:
        The normalised view. Shape: (3, image_size, image_size), float32.
    """
    view = transforms.resized_crop(
        image, draw.top, draw.left, draw.height, draw.width, [image_size, image_size], InterpolationMode.BICUBIC
    )
    if draw.flip:
        view = transforms.horizontal_flip(view)
    if draw.color_jitter is not None:
        view = _jittered(view, draw.color_jitter)
    if draw.grayscale:
        view = transforms.rgb_to_grayscale(view, num_output_channels=3)
    pixels = np.asarray(view)  # (height, width, 3) uint8
    if draw.blur_sigma is not None:
        pixels = gaussian_blur(pixels, parameters.blur_kernel_size(image_size), draw.blur_sigma)
    if draw.solarize:
        pixels = np.where(pixels >= parameters.solarization_threshold, 255 - pixels, pixels)
    return normalized(pixels, parameters.mean, parameters.std)


def normalized(
    pixels: npt.NDArray[np.uint8], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """Maps 8-bit channel values to (value / 255 − mean) / std.

    Args:
        pixels: Shape: (height, width, 3).
        mean: Per channel, for values in [0, 1].
        std: Per channel, for values in [0, 1].

    Returns:
        Shape: (3, height, width), float32.
    """
    scale = np.array([1 / (255 * deviation) for deviation in std], dtype=np.float32)
    offset = np.array([-center / deviation for center, deviation in zip(mean, std, strict=True)], dtype=np.float32)
    return torch.from_numpy(np.ascontiguousarray((pixels * scale + offset).transpose(2, 0, 1)))


def gaussian_blur(pixels: npt.NDArray[np.uint8], kernel_size: int, sigma: float) -> npt.NDArray[np.uint8]:
    """Blurs with a truncated Gaussian, the image mirrored at its border.

    Args:
        pixels: Shape: (height, width, channels).
        kernel_size: Odd side of the kernel in pixels, at most 2 · min(height, width) − 1.
        sigma: Standard deviation in pixels.

    Returns:
        The blurred image. Shape: (height, width, channels).
    """
    radius = kernel_size // 2
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-radius, radius + 1)]
    kernel = np.array(weights, dtype=np.float32) / np.float32(sum(weights))
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((radius, radius), (radius, radius), (0, 0)), mode="reflect")
    rows = kernel[0] * padded[:height]
    for offset in range(1, kernel_size):
        rows += kernel[offset] * padded[offset : offset + height]
    blurred = kernel[0] * rows[:, :width]
    for offset in range(1, kernel_size):
        blurred += kernel[offset] * rows[:, offset : offset + width]
    rounded: npt.NDArray[np.uint8] = (blurred + 0.5).astype(np.uint8)
    return rounded


def _jittered(image: Image.Image, jitter: ColorJitterDraw) -> Image.Image:
    for step in jitter.order:
        if step == 0:
            image = transforms.adjust_brightness(image, jitter.brightness)
        elif step == 1:
            image = transforms.adjust_contrast(image, jitter.contrast)
        elif step == 2:
            image = transforms.adjust_saturation(image, jitter.saturation)
        else:
            image = transforms.adjust_hue(image, jitter.hue)
    return image
