"""The embedded default data set: fractals that need no download, kept on disk after they are drawn once."""

import logging
import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from synco_hub.atomic_write import atomic_write
from synco_hub.data.cache_directory import data_cache_directory
from synco_hub.data.fractals.drawing import FRACTAL_VERSION, Nuisance, fractal_code, render_fractals
from synco_hub.data.image_dataset import DatasetDescription, ImageDataset, fingerprint

logger = logging.getLogger(__name__)

_FIRST_TEST_INSTANCE = 1_000_000_000  # far above any training set, so that no image is in both splits


@dataclass(frozen=True)
class FractalParameters:
    """How many fractals, and how large.

    Attributes:
        num_classes: Ten have a name, more are drawn.
        train_images_per_class: Images of each class in the training split.
        test_images_per_class: Images of each class in the test split.
        image_size: Height and width in pixels.

    Raises:
        ValueError: If a number is too small.
    """

    num_classes: int = 10
    train_images_per_class: int = 100
    test_images_per_class: int = 100
    image_size: int = 32

    def __post_init__(self) -> None:
        """Refuses what cannot be drawn."""
        for name, value in asdict(self).items():
            least = 8 if name == "image_size" else 1
            if value < least:
                raise ValueError(f"fractals: {name} {value} is too small; give at least {least}.")

    def spell(self) -> str:
        """The name of the data set that has these parameters, `fractals:num_classes=20`; the defaults go unsaid."""
        usual = asdict(FractalParameters())
        chosen = [f"{name}={value}" for name, value in asdict(self).items() if value != usual[name]]
        return ":".join(filter(None, ("fractals", ",".join(chosen))))


def _say_choice(parameters: FractalParameters) -> str:
    return "" if parameters == FractalParameters() else f" ({parameters.spell()})"


class FractalDataset(ImageDataset):
    """Coloured fractals: the shape is the class, colour, pose and a slight deformation are chance.

    Args:
        split: `train` or `test`; the two have different instances of the same classes.
        parameters: How many and how large; None takes the defaults.
        cache_dir: Where the drawn images are kept; None takes the user's cache folder. A folder that cannot be
            written to costs a warning, and the images are drawn anew in each run.

    Raises:
        ValueError: If the split is unknown.
    """

    def __init__(
        self,
        split: str = "train",
        parameters: FractalParameters | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        parameters = parameters or FractalParameters()
        if split not in ("train", "test"):
            raise ValueError(f"split {split!r} of fractals: the splits are train and test; give one of them.")
        self._first = 0 if split == "train" else _FIRST_TEST_INSTANCE
        self._per_class = parameters.train_images_per_class if split == "train" else parameters.test_images_per_class
        self._parameters = parameters
        class_names = [fractal_code(number).name for number in range(parameters.num_classes)]
        # The nuisance defaults decide every pixel: without them here, a change would be served old images from disk.
        numbers = np.array([FRACTAL_VERSION, self._first, self._per_class, parameters.image_size])
        key = fingerprint(class_names, repr(Nuisance()), numbers)
        self._cache_file = (
            data_cache_directory(cache_dir) / "fractals" / f"{split}-{parameters.image_size}px-{key}.npy"
        )
        self._images: npt.NDArray[np.uint8] | None = None
        super().__init__(
            labels=np.repeat(np.arange(parameters.num_classes), self._per_class),
            class_names=class_names,
            description=DatasetDescription(
                name="fractals",
                source=f"drawn iterated function systems, version {FRACTAL_VERSION}, {parameters.image_size} pixels",
                split=split,
                num_images=parameters.num_classes * self._per_class,
                num_classes=parameters.num_classes,
                split_rule="train and test have different instances of the same classes" + _say_choice(parameters),
                fingerprint=key,
            ),
        )

    @property
    def images(self) -> npt.NDArray[np.uint8]:
        """All images, read from the cache or drawn. Shape: (num_images, image_size, image_size, 3)."""
        if self._images is None:
            self._images = self._cached() if self._cache_file.is_file() else None
        if self._images is None:
            self._images = self._drawn()
        return self._images

    def load_image(self, index: int) -> Image.Image:
        """One fractal."""
        return Image.fromarray(self.images[index])

    def name(self, index: int) -> str:
        """Class and instance, as `barnsley_fern/17`."""
        label, instance = divmod(range(len(self))[index], self._per_class)
        return f"{self.class_names[label]}/{self._first + instance}"

    def __getstate__(self) -> dict[str, Any]:
        """Leaves mapped images behind: a worker process maps the file again instead of receiving a copy."""
        state = self.__dict__.copy()
        if isinstance(self._images, np.memmap):
            state["_images"] = None
        return state

    def _cached(self) -> npt.NDArray[np.uint8] | None:
        size = self._parameters.image_size
        try:
            images: npt.NDArray[np.uint8] = np.load(self._cache_file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            logger.warning("%s is damaged (%s); the fractals are drawn anew.", self._cache_file, error)
            return None
        if images.shape != (len(self), size, size, 3) or images.dtype != np.uint8:
            logger.warning("%s does not hold what its name says; the fractals are drawn anew.", self._cache_file)
            return None
        return images

    def _drawn(self) -> npt.NDArray[np.uint8]:
        logger.info("drawing %d fractals of %d pixels", len(self), self._parameters.image_size)
        instances = range(self._first, self._first + self._per_class)
        size = self._parameters.image_size
        images = np.concatenate([render_fractals(number, instances, size) for number in range(self.num_classes)])
        try:
            with atomic_write(self._cache_file) as temporary:
                np.save(temporary, images, allow_pickle=False)
        except OSError as error:
            logger.warning("fractals cannot be kept in %s (%s); each run draws them.", self._cache_file.parent, error)
            return images
        # Mapped pages are shared by all worker processes, the array just drawn would be copied to each.
        mapped = self._cached()
        return images if mapped is None else mapped
