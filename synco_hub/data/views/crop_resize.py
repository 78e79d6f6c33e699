"""Crop and resize in 8 bits: the picture of Pillow to one grey level, in a fifth of its time.

Of 4.5 million channel values measured, 0.4 % were one level off and seven values two (torch 2.15; 2.11 is coarser at
some sizes: 13 % by one level, 0.02 % by two to four).
"""

import numpy as np
import numpy.typing as npt
import torch

from synco_hub.data.views.view_draw import ViewDraw


def crop_resized(pixels: npt.NDArray[np.uint8], draw: ViewDraw, image_size: int) -> npt.NDArray[np.uint8]:
    """Cuts out the crop that was drawn and resizes it to a square, bicubic and antialiased.

    Args:
        pixels: RGB image. Shape: (height, width, 3).
        draw: Its box is read, nothing else.
        image_size: Height and width of the result in pixels.

    Returns:
        The crop, contiguous. Shape: (image_size, image_size, 3).
    """
    box = torch.from_numpy(pixels)[None, draw.top : draw.top + draw.height, draw.left : draw.left + draw.width]
    # The batch dimension must be there before the channels move: only then torch sees channels last, which it resizes
    # from and to the memory as it lies, without copies.
    resized = torch.nn.functional.interpolate(
        box.permute(0, 3, 1, 2), (image_size, image_size), mode="bicubic", antialias=True
    )
    crop: npt.NDArray[np.uint8] = resized.permute(0, 2, 3, 1)[0].contiguous().numpy()
    return crop
