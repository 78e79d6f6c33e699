"""Two views in two halves. This half runs in a worker process: crop, resize and the numbers of the draw, in 8 bits.

The other half, `DeviceViews`, distorts a whole batch at once on the training device. What a worker hands over is a
quarter of the finished views in bytes and about an eighth of the work.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from synco_hub.data.views.crop_resize import crop_resized
from synco_hub.data.views.device_views import DeviceViews
from synco_hub.data.views.draw_row import draw_row
from synco_hub.data.views.two_view_parameters import TwoViewParameters
from synco_hub.data.views.two_views import refuse_no_pixels
from synco_hub.data.views.view_draw import draw_view


class CroppedView(NamedTuple):
    """One view before its distortion.

    Attributes:
        crop: 8-bit RGB. Shape: (image_size, image_size, 3), uint8.
        draw: What is to be done with it, see `draw_row`. Shape: (len(DRAW_ROW),), float32.
    """

    crop: torch.Tensor
    draw: torch.Tensor


class SplitTwoViewTransform:
    """The worker's half of `TwoViewTransform`: the same draws, the same crops to one grey level.

    Args:
        image_size: Height and width of a view in pixels.
        parameters: Table 11; None takes the paper's numbers.

    Raises:
        ValueError: If the image size is not positive.
    """

    def __init__(self, image_size: int, parameters: TwoViewParameters | None = None) -> None:
        refuse_no_pixels(image_size)
        self.image_size = image_size
        self.parameters = parameters or TwoViewParameters()

    def __call__(self, pixels: npt.NDArray[np.uint8], seed_key: int) -> tuple[CroppedView, CroppedView]:
        """Draws both views and cuts them out; no global random generator is read or moved.

        Args:
            pixels: RGB image of any size. Shape: (height, width, 3).
            seed_key: 64-bit key of the sample: `random_key(seed, epoch, index)`.

        Returns:
            View 1 and view 2.
        """
        height, width = pixels.shape[:2]
        draws = [draw_view(self.parameters, view, width, height, seed_key) for view in (0, 1)]
        first, second = (
            CroppedView(
                torch.from_numpy(crop_resized(pixels, draw, self.image_size)),
                torch.tensor(draw_row(draw), dtype=torch.float32),
            )
            for draw in draws
        )
        return first, second

    def device_half(self) -> DeviceViews:
        """What finishes these views on the training device."""
        return DeviceViews(self.image_size, self.parameters)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(image_size={self.image_size}, parameters={self.parameters})"
