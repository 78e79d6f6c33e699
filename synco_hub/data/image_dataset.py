"""What every image data set of the package offers, whatever it is read from."""

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch.utils.data import Dataset

from synco_hub.data.decoding import UnreadableImageError
from synco_hub.data.value_range import ValueRange
from synco_hub.errors import DoesNotApplyError

UNLABELED = -1


class Sample(NamedTuple):
    """One image with its class.

    Attributes:
        image: Mode RGB.
        label: Index into `class_names`; -1 where the data set has no labels.
    """

    image: Image.Image
    label: int


@dataclass(frozen=True)
class DatasetDescription:
    """What a result or a checkpoint says about the data it comes from.

    Attributes:
        name: As the user gave it: `fractals`, a folder name, a Hub id.
        source: Folder, Hub id with revision, or how the images are drawn.
        split: `train`, `test`, or the split's own name.
        num_images: Number of images.
        num_classes: Number of classes; 0 without labels.
        split_rule: How train and test were told apart.
        fingerprint: Changes when a file, a label, a class name or the order changes, and not when a folder moves or is
            called otherwise.
        earlier_fingerprint: That of version 0.1, where it was another: its runs and results have it.
    """

    name: str
    source: str
    split: str
    num_images: int
    num_classes: int
    split_rule: str
    fingerprint: str
    earlier_fingerprint: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; of the fingerprints the one of today."""
        return {name: value for name, value in asdict(self).items() if name != "earlier_fingerprint"}

    def derive(self, *parts: "str | npt.NDArray[np.int64] | Iterable[str]", **changes: Any) -> Self:
        """Describes images that were made of these, whose fingerprint is of these and of what was done."""
        earlier = self.earlier_fingerprint
        return replace(
            self,
            fingerprint=fingerprint(self.fingerprint, *parts),
            earlier_fingerprint=None if earlier is None else fingerprint(earlier, *parts),
            **changes,
        )

    def is_same_data(self, recorded: str | None) -> bool:
        """Whether a fingerprint that was written down, by whatever version, is of this data."""
        return recorded is not None and recorded in (self.fingerprint, self.earlier_fingerprint)


class ImageDataset(Dataset[Sample]):
    """A finite set of images with an order: `len`, `dataset[index] -> Sample(image, label)`.

    A subclass gives `load_image` and `name`; this class keeps the labels. Labels are known without decoding an image.

    Args:
        labels: Class indices, -1 for unlabeled images. Shape: (num_images,).
        class_names: One name for each class, in label order; empty without labels.
        description: What to say about the data set.

    Attributes:
        labels: int64. Shape: (num_images,).
        class_names: One name for each class.
        description: What to say about the data set.
        multi_hot: Where an image can have several classes: 1 present, 0 absent, -1 neither; the labels are then all
            -1. Shape: (num_images, num_classes). None where an image has one class.
        value_range: Values of black and white in images of more than 8 bits; None leaves it to each file.

    Raises:
        ValueError: If a label has no class name.
    """

    multi_hot: npt.NDArray[np.float32] | None = None
    value_range: ValueRange | None = None

    def __init__(self, labels: npt.ArrayLike, class_names: Iterable[str], description: DatasetDescription) -> None:
        self.labels: npt.NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        self.class_names = list(class_names)
        self.description = description
        if len(self.labels) and not UNLABELED <= self.labels.min() <= self.labels.max() < max(
            len(self.class_names), 0
        ):
            raise ValueError(
                f"labels {self.labels.min()} to {self.labels.max()} of {description.name}: {len(self.class_names)} "
                "classes are named, so labels run from 0 to that number less one; check the label column."
            )

    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without labels."""
        return len(self.class_names)

    @property
    def is_labeled(self) -> bool:
        """Whether every image has a class."""
        return self.num_classes > 0 and bool((self.labels != UNLABELED).all())

    def require_labels(self, purpose: str) -> None:
        """Refuses to go on without labels.

        Args:
            purpose: What needs them, for the message: "k-NN evaluation".

        Raises:
            DoesNotApplyError: If an image has no label.
        """
        if not self.is_labeled:
            raise DoesNotApplyError(
                f"{self.description.source} ({self.description.split}): {purpose} needs a class for every image, and "
                "this data set has none; put the images into one sub-folder per class (it can be used for pretraining "
                "as it is)."
            )

    def load_image(self, index: int) -> Image.Image:
        """Decodes one image to RGB.

        Raises:
            UnreadableImageError: If the file is damaged.
        """
        raise NotImplementedError

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """Decodes one image to an array, which for most JPEG files is faster.

        Returns:
            The pixels of `load_image`. Shape: (height, width, 3).

        Raises:
            UnreadableImageError: If the file is damaged.
        """
        return np.array(self.load_image(index))

    def find_damage(self, index: int) -> str | None:
        """Why an image cannot be read, in words; None where it cannot be told.

        Args:
            index: Of an image that could not be read before.
        """
        try:
            self.load_image(index)
        except UnreadableImageError as error:
            return error.reason
        return "it could be read at a second try"

    def name(self, index: int) -> str:
        """How reports and errors name one image: its file name where it has one."""
        raise NotImplementedError

    def file_names(self) -> list[str]:
        """Names of all images as lists of files have them, read without decoding an image."""
        return [self.name(index) for index in range(len(self))]

    def encoded(self, index: int) -> bytes:
        """One image as a file: the stored bytes where there are any, else a lossless PNG.

        Raises:
            UnreadableImageError: If there are no bytes; damaged ones are returned as they are.
        """
        stream = io.BytesIO()
        self.load_image(index).save(stream, "PNG")
        return stream.getvalue()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.load_image(index), int(self.labels[index]))


class PixelArrayDataset(ImageDataset):
    """Images that are arrays already, with a name for each.

    The pixels are uint8 of shape (num_images, height, width, 3), or (num_images, height, width) where they are grey.
    """

    def __init__(
        self,
        pixels: npt.NDArray[np.uint8],
        names: Sequence[str],
        labels: Sequence[int],
        class_names: Sequence[str],
        description: DatasetDescription,
    ) -> None:
        super().__init__(labels, class_names, description)
        self.pixels = pixels
        self.names = list(names)

    def load_image(self, index: int) -> Image.Image:
        """One image."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def name(self, index: int) -> str:
        """The name that it came with."""
        return self.names[index]


def note_value_range(images: ImageDataset, stored: ImageDataset, chosen: ValueRange | None) -> None:
    """Reads stored images by a range, which the description says unless it is what files promise by their type."""
    stored.value_range = chosen
    if chosen is not None and not chosen.is_usual:
        images.description = images.description.derive(
            str(chosen), split_rule=f"{images.description.split_rule}; values {chosen}"
        )


def fingerprint(*parts: str | bytes | Iterable[str] | npt.NDArray[np.int64]) -> str:
    """A short stable hash of names and numbers."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, np.ndarray):
            blocks: Iterable[bytes] = [np.ascontiguousarray(part, dtype="<i8").tobytes()]
        elif isinstance(part, str | bytes):
            blocks = [part if isinstance(part, bytes) else part.encode("utf-8", "surrogateescape")]
        else:
            blocks = (text.encode("utf-8", "surrogateescape") for text in part)
        count = 0
        for block in blocks:
            digest.update(len(block).to_bytes(8, "little") + block)
            count += 1
        digest.update(b"|" + count.to_bytes(8, "little"))
    return digest.hexdigest()
