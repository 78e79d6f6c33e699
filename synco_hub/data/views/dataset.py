"""Pairs of views for pretraining: what a loader reads and how it makes a batch."""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.unreadable_images import load_readable_pixels
from synco_hub.data.views.device_views import CroppedView

View = torch.Tensor | CroppedView
# Turns the pixels of an image, (height, width, 3), and the key of its sample into two views.
PixelTransform = Callable[[npt.NDArray[np.uint8], int], tuple[View, View]]


class ViewPair(TypedDict):
    """Two views of one image.

    Keys: view_1 and view_2 of shape (3, height, width), or cropped and still to be distorted on the device; index, the
    position in the data set; bad_index, -1 or the position of the unreadable image in whose place another one was
    taken.
    """

    view_1: View
    view_2: View
    index: int
    bad_index: int


class TwoViewDataset(Dataset[ViewPair]):
    """Map-style data set of view pairs, indexed by (epoch, index).

    The views of an image differ from epoch to epoch and depend on nothing but (seed, epoch, index): not on the number
    of worker processes, not on what was drawn before, not on whether the run was resumed.

    Args:
        images: The images; labels are not used.
        transform: Makes the two views of an image's pixels, `TwoViewTransform` for one.
        seed: Another seed draws other views.
    """

    def __init__(self, images: ImageDataset, transform: PixelTransform, seed: int = 0) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> ViewPair:
        epoch, index = key
        key_of_sample = derive_random_key(self.seed, epoch, index)
        pixels, bad_index = load_readable_pixels(self.images, index, self.seed)
        views = self.transform(pixels, key_of_sample)
        return ViewPair(view_1=views[0], view_2=views[1], index=index, bad_index=bad_index)

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(index)


class TwoViewCollator:
    """Stacks view pairs to a batch.

    Finished views become view_1 and view_2 of shape (batch, 3, height, width), float32. Cropped ones become view_1 and
    view_2 of shape (batch, height, width, 3), uint8, with draw_1 and draw_2 of shape (batch, len(DRAW_ROW)) for
    `DeviceViews`. bad_index is (batch,) int64.
    """

    def __call__(self, pairs: Sequence[ViewPair]) -> dict[str, torch.Tensor]:
        """Stacks; the indices of good images stay behind, because a model's forward would not take them."""
        return {
            **_stacked("1", [pair["view_1"] for pair in pairs]),
            **_stacked("2", [pair["view_2"] for pair in pairs]),
            "bad_index": torch.tensor([pair["bad_index"] for pair in pairs], dtype=torch.int64),
        }


def _stacked(number: str, views: Sequence[View]) -> dict[str, torch.Tensor]:
    cropped = [view for view in views if isinstance(view, CroppedView)]
    if not cropped:
        return {f"view_{number}": torch.stack([view for view in views if isinstance(view, torch.Tensor)])}
    return {
        f"view_{number}": torch.stack([view.crop for view in cropped]),
        f"draw_{number}": torch.stack([view.draw for view in cropped]),
    }
