"""Images with a mask of classes each, and how a mask is read.

A mask is an indexed or grey picture of its image's size: each pixel is its class from 0, or 255 where there is none.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from synco_hub.data.davis import PALETTE
from synco_hub.data.decoding import decode_rgb

VOID = 255
# VOC draws the outlines of objects, which are no class, in this colour.
_VOC_OUTLINE = (224, 224, 192)

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class MaskedImages:
    """A split: images with their masks.

    Attributes:
        name: Of the data set.
        split: `train` or `test`.
        class_names: In the order of the masks' numbers.
        names: How each image is called.
        sources: For each image its file, or a function that gives the bytes of both pictures.
        zero_is_void: Whether masks number classes from 1.
        drawn: Whether masks may be pictures in VOC's colours.
        split_rule: How the split was made.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    names: tuple[str, ...]
    sources: tuple[Callable[[], tuple[bytes, bytes]], ...]
    zero_is_void: bool = False
    drawn: bool = False
    split_rule: str = "as the data set has it"

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> tuple[Image.Image, Mask]:
        """An RGB image and its mask, 255 where there is no class; a mask that does not fit is refused."""
        image_bytes, mask_bytes = self.sources[index]()
        image = decode_rgb(image_bytes, self.names[index])
        return image, self.read_mask(mask_bytes, self.names[index], image)

    def read_mask(self, data: bytes, name: str, image: Image.Image) -> Mask:
        """A mask of an image, as the data set numbers its classes; `name` is what errors call it."""
        mask = self._read_mask(data, name)
        if mask.shape != (image.height, image.width):
            raise ValueError(
                f"the mask of {name} is {mask.shape[1]}x{mask.shape[0]}, its image "
                f"{image.width}x{image.height}: both need one size; correct or remove them."
            )
        classes = len(self.class_names)
        if classes and (beyond := mask[(mask >= classes) & (mask != VOID)]).size:
            raise ValueError(
                f"the mask of {name} has the value {beyond.max() + self.zero_is_void}, but there are "
                f"{classes} classes, numbered from {int(self.zero_is_void)}, and {VOID} for none: give --num-classes, "
                "or correct the mask."
            )
        return mask

    def pictures(self) -> list[tuple[str, Callable[[], bytes]]]:
        """Names of the images, each with what reads its bytes."""

        def read(source: Callable[[], tuple[bytes, bytes]]) -> bytes:
            return source()[0]

        return [(name, partial(read, source)) for name, source in zip(self.names, self.sources, strict=True)]

    def list_values(self, progress: bool = False) -> set[int]:
        """The values of all masks, 255 left out."""
        found: set[int] = set()
        for index in tqdm(range(len(self)), f"values of {self.split} masks", unit="mask", disable=not progress):
            found |= set(np.unique(self._read_mask(self.sources[index]()[1], self.names[index])).tolist())
        return found - {VOID}

    def take(self, indices: Sequence[int]) -> MaskedImages:
        """Some of the images."""
        names, sources = (tuple(self.names[i] for i in indices), tuple(self.sources[i] for i in indices))
        return replace(self, names=names, sources=sources)

    def fingerprint(self) -> str:
        """Hash of names and encoded pictures."""
        digest = hashlib.sha256()
        for name, source in zip(self.names, self.sources, strict=True):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
            for part in source():
                digest.update(hashlib.sha256(part).digest())
        return digest.hexdigest()[:16]

    def _read_mask(self, data: bytes, name: str) -> Mask:
        mask = read_class_mask(data, name, self.drawn)
        # 0 becomes 255, 255 stays, every class moves down by one.
        return np.where(mask == VOID, VOID, mask - 1).astype(np.uint8) if self.zero_is_void else mask


def read_class_mask(data: bytes, name: str, drawn: bool = False) -> Mask:
    """The values of an indexed or grey picture.

    Args:
        data: The encoded picture.
        name: How errors name its image.
        drawn: Whether it may be in VOC's colours, without a palette.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            values = np.asarray(image)
            mode, lossy = image.mode, image.format == "JPEG"
    except (OSError, SyntaxError) as error:
        raise ValueError(f"the mask of {name} cannot be read ({error}): replace it.") from None
    if lossy:
        raise ValueError(f"the mask of {name} is a JPEG, which changes the numbers of classes: save masks as PNG.")
    if values.ndim == 3:
        colours = values[..., :3] if mode in ("RGB", "RGBA") else values[..., :1]
        if (colours == colours[..., :1]).all():
            values = colours[..., 0]
        elif drawn:
            values = _numbers_of_colours(colours, name)
        else:
            raise ValueError(
                f"the mask of {name} holds {mode} colours without a palette, so that it is unknown which class a "
                "colour is: save it as an indexed or grey picture of class numbers."
            )
    values = values.astype(np.int64)
    if values.min(initial=0) < 0 or values.max(initial=0) > VOID:
        raise ValueError(
            f"the mask of {name} has values from {values.min()} to {values.max()}: classes are numbered from 0 to "
            f"{VOID - 1}, and {VOID} is none."
        )
    return values.astype(np.uint8)


def _numbers_of_colours(colours: NDArray[Any], name: str) -> Mask:
    """VOC's numbers of its colours."""
    table = {colour: number for number, colour in enumerate(PALETTE[:21])} | {_VOC_OUTLINE: VOID}
    packed = colours.astype(np.int64) @ np.array([65536, 256, 1])
    mask = np.full(packed.shape, -1)
    for (red, green, blue), number in table.items():
        mask[packed == red * 65536 + green * 256 + blue] = number
    if (mask < 0).any():
        row, column = np.argwhere(mask < 0)[0]
        raise ValueError(
            f"the mask of {name} has the colour {tuple(colours[row, column].tolist())}, which is no class of VOC: "
            "save it as an indexed picture."
        )
    return mask.astype(np.uint8)
