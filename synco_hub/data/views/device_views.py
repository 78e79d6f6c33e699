"""The training device's half of two views: flip, jitter, gray, blur, solarize and normalise a whole batch at once.

The numbers were drawn in the worker (`SplitTwoViewTransform`), so the views are those of the reference path. Steps
are computed in float32 without rounding to 8 bits between them, which the reference path does: views differ by about
a grey level, by more only where the reference keeps the hue in 8 bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from synco_hub.data.views.batched_blur import blurred, reflected_offsets
from synco_hub.data.views.batched_color import gray_of, jittered
from synco_hub.data.views.draw_row import BLENDS, DRAW_ROW
from synco_hub.data.views.two_view_parameters import TwoViewParameters

_WIDTHS = (1, BLENDS, BLENDS, BLENDS, 1, 1, 1, 1, 1)
assert sum(_WIDTHS) == len(DRAW_ROW)


def finished_views(half: DeviceViews | None, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both views of a batch, whoever makes them.

    Args:
        half: What finishes cropped views; None where the workers finish them.
        batch: As `TwoViewCollator` gives it, on the device.

    Returns:
        View 1 and view 2. Shape of each: (batch, 3, height, width), float32.

    Raises:
        ValueError: If the views are cropped only and nothing finishes them.
    """
    if "draw_1" not in batch:
        return batch["view_1"], batch["view_2"]
    if half is None:
        raise ValueError(
            "the batch holds crops and draws, not views: finish them by SplitTwoViewTransform.device_half(), or make "
            "the views in the workers (--augment-on worker)."
        )
    return half(batch["view_1"], batch["draw_1"]), half(batch["view_2"], batch["draw_2"])


class DeviceViews(nn.Module):
    """Finishes cropped views. Holds no parameter and draws nothing: the same crops and draws give the same views.

    Args:
        image_size: Height and width of a view in pixels.
        parameters: Kernel size, threshold, mean and standard deviation are read from here; None takes the paper's.
    """

    offsets: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, image_size: int, parameters: TwoViewParameters | None = None) -> None:
        super().__init__()
        parameters = parameters or TwoViewParameters()
        self.solarization_threshold = parameters.solarization_threshold / 255
        radius = min(parameters.blur_kernel_size(image_size) // 2, image_size - 1)
        self.register_buffer("offsets", reflected_offsets(image_size, radius), persistent=False)
        for name in ("mean", "std"):
            values = torch.tensor(getattr(parameters, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)

    @torch.no_grad()
    def forward(self, crops: Tensor, draws: Tensor) -> Tensor:
        """Distorts and normalises.

        Args:
            crops: 8-bit RGB. Shape: (batch, image_size, image_size, 3), uint8.
            draws: One row an image, see `draw_row`. Shape: (batch, len(DRAW_ROW)), float32.

        Returns:
            The views. Shape: (batch, 3, image_size, image_size), float32.
        """
        # Half precision would cost grey levels.
        with torch.autocast(device_type=crops.device.type, enabled=False):
            flip, factors, gray_shares, mean_shares, before_hue, hue, grayscale, sigma, solarize = draws.split(
                _WIDTHS, dim=1
            )
            flip, hue, grayscale, solarize = (value[:, :, None, None] for value in (flip, hue, grayscale, solarize))
            images = crops.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format) / 255
            images = torch.where(flip > 0, images.flip(3), images)
            images = jittered(images, factors, gray_shares, mean_shares, before_hue, hue)
            images = torch.where(grayscale > 0, gray_of(images), images)
            images = blurred(images, sigma[:, 0], self.offsets)
            inverted = (solarize > 0) & (images >= self.solarization_threshold)
            images = torch.where(inverted, 1 - images, images)
            return (images - self.mean) / self.std
