"""Boxes of PASCAL VOC: the images of a split and what `Annotations/*.xml` says lies where in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import torch
from torch import Tensor

_SPLITS = "ImageSets/Main"


@dataclass(frozen=True)
class BoxedImage:
    """One image and its annotated boxes.

    Attributes:
        name: Name without ending, such as `000005`.
        file: The image.
        boxes: Left, top, right, bottom in pixels from 0, right and bottom excluded, objects of all classes, the
            difficult and truncated ones too. Shape: (boxes, 4).
    """

    name: str
    file: Path
    boxes: Tensor


def load_voc_boxes(root: Path, split: str = "trainval") -> tuple[BoxedImage, ...]:
    """Read the images of a split with their boxes."""
    places = (root, root / "VOC2007", root / "VOCdevkit" / "VOC2007")
    folder = next((place for place in places if (place / "Annotations").is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{str(root)!r} holds no Annotations folder, nor do VOC2007 or VOCdevkit/VOC2007 in it: unpack "
            "VOCtrainval_06-Nov-2007.tar and give its folder"
        )
    listed = folder / _SPLITS / f"{split}.txt"
    if not listed.is_file():
        raise FileNotFoundError(f"{str(listed)!r} does not exist: choose a split that {_SPLITS} lists")
    # Lists of one class have a second column.
    names = [line.split()[0] for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not names:
        raise ValueError(f"{str(listed)!r} names no image: unpack the archive again")
    for name in names:
        if Path(name).name != name:
            raise ValueError(f"{str(listed)!r} names {name!r}, which is no name of an image")
    return tuple(_read_boxed_image(folder, name) for name in names)


def read_boxes(file: Path) -> Tensor:
    """The boxes of one annotation.

    VOC counts pixels from 1 and includes the last one; the coordinates here count from 0 and exclude it, so that
    left and top lose 1 while right and bottom keep their numbers.

    Returns:
        Left, top, right, bottom, float64. Shape: (boxes, 4).
    """
    if not file.is_file():
        raise FileNotFoundError(f"{str(file)!r} does not exist: every image of the split needs its annotation")
    text = file.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise ValueError(f"{str(file)!r} defines entities, which no annotation of VOC does: take the original file")
    boxes = []
    try:
        # Only an object's own box: `part` elements (hands, heads) have boxes too.
        for found in ElementTree.fromstring(text).findall("object/bndbox"):
            left, top, right, bottom = (float(found.findtext(side) or "") for side in ("xmin", "ymin", "xmax", "ymax"))
            if not (left <= right and top <= bottom):
                raise ValueError(f"a box from ({left}, {top}) to ({right}, {bottom})")
            boxes.append((left - 1, top - 1, right, bottom))
    except (ElementTree.ParseError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is not an annotation of VOC ({error}): take the original file") from None
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def _read_boxed_image(folder: Path, name: str) -> BoxedImage:
    image = folder / "JPEGImages" / f"{name}.jpg"
    if not image.is_file():
        raise FileNotFoundError(f"{str(image)!r} does not exist: every image of the split must be there")
    return BoxedImage(name, image, read_boxes(folder / "Annotations" / f"{name}.xml"))
