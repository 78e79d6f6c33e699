"""Images as evaluation reads them: pixel values, label, and a mark on what could not be read."""

from typing import TypedDict

import torch
from torch.utils.data import Dataset

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.evaluation_transform import EvaluationTransform
from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.unreadable_images import GOOD


class EvaluationItem(TypedDict):
    """One image of an evaluation; the default collation of torch stacks these.

    Keys: pixel_values of shape (channels, height, width), all zero for an unreadable image; label; index, the position
    in the data set; bad_index, -1 or the position again if the image is unreadable and its row must be left out.
    """

    pixel_values: torch.Tensor
    label: int
    index: int
    bad_index: int


class EvaluationDataset(Dataset[EvaluationItem]):
    """Map-style data set for frozen features.

    An unreadable image is not replaced by another one, which would count that one twice: its row is marked, so that
    the reader leaves it out and reports it.

    Args:
        images: The images.
        transform: Makes the view of an image.
    """

    def __init__(self, images: ImageDataset, transform: EvaluationTransform) -> None:
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> EvaluationItem:
        label = int(self.images.labels[index])
        try:
            image = self.images.load_image(index)
        except UnreadableImageError:
            blank = torch.zeros(self.transform.shape)
            return EvaluationItem(pixel_values=blank, label=label, index=index, bad_index=index)
        view = self.transform(image, getattr(self.images, "after_crop", None))
        return EvaluationItem(pixel_values=view, label=label, index=index, bad_index=GOOD)

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(index)
