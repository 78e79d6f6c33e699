"""DAVIS 2017: videos as JPEG frames, objects as indexed PNG masks.

Layout: `JPEGImages/480p/<video>/00000.jpg`, `Annotations/480p/<video>/00000.png`, `ImageSets/2017/val.txt`. A mask's
pixel is 0 on the background, 1, 2, … on the objects of the first frame, 255 on no object.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from synco_hub.atomic_write import atomic_write

VOID = 255
RESOLUTION = "480p"
# The first and the last frame do not count, so that a video needs a third one.
LEAST_FRAMES = 3

# DAVIS's own colours of the background and 21 objects; further indices are grey.
_COLOURS = (
    "000000 800000 008000 808000 000080 800080 008080 808080 400000 bf0000 408000 bf8000 400080 bf0080 408080 bf8080 "
    "004000 804000 00bf00 80bf00 004080 804080"
)
PALETTE: tuple[tuple[int, int, int], ...] = (
    *((int(c[:2], 16), int(c[2:4], 16), int(c[4:], 16)) for c in _COLOURS.split()),
    *((grey, grey, grey) for grey in range(len(_COLOURS.split()), 256)),
)

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class DavisVideo:
    """One video.

    Attributes:
        name: Name of its folder.
        frames: Files of the frames, in order.
        annotations: Where the mask of each frame is, or should be.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]

    def read_annotations(self) -> Mask:
        """Read and check the masks of all frames.

        Returns:
            Indices of objects. Shape: (frames, height, width).
        """
        if len(self.frames) < LEAST_FRAMES:
            raise ValueError(
                f"video {self.name!r} has {len(self.frames)} frames: at least {LEAST_FRAMES} are needed, since the "
                "first and the last do not count"
            )
        missing = [file.name for file in self.annotations if not file.is_file()]
        if missing:
            raise ValueError(
                f"video {self.name!r} has no annotation of {len(missing)} of its {len(self.frames)} frames, first "
                f"{str(self.annotations[0].parent / missing[0])!r}: unpack the trainval archive, test videos have none"
            )
        # A video without one of its frames is another video, which would be measured as if it were whole.
        if unseen := sorted(set(self.annotations[0].parent.glob("*.png")) - set(self.annotations)):
            raise ValueError(
                f"video {self.name!r} has no frame of {len(unseen)} of its annotations, first {str(unseen[0])!r}: "
                "unpack the archive again"
            )
        self._check_sizes()
        masks = np.stack([read_mask(file) for file in self.annotations])
        objects = [set(np.unique(mask).tolist()) - {0, VOID} for mask in masks]
        if not objects[0]:
            raise ValueError(f"video {self.name!r} has no object in its first frame: there is nothing to follow")
        for file, named in zip(self.annotations, objects, strict=True):
            if named - objects[0]:
                raise ValueError(
                    f"video {self.name!r}: {file.name} has object {max(named - objects[0])}, the first frame only "
                    f"{', '.join(map(str, sorted(objects[0])))}: masks name the objects of the first frame; correct "
                    "or remove the video"
                )
        return masks

    def _check_sizes(self) -> None:
        first: tuple[int, int] | None = None
        for file in (*self.frames, *self.annotations):
            try:
                with Image.open(file) as image:
                    size = image.size
            except OSError as error:
                raise ValueError(f"video {self.name!r}: {str(file)!r} cannot be read ({error}): replace it") from None
            first = first or size
            if size != first:
                raise ValueError(
                    f"video {self.name!r}: {file.parent.parent.name}/{self.name}/{file.name} is {size[0]}x{size[1]}, "
                    f"the first frame {first[0]}x{first[1]}: all frames and masks of a video need one size"
                )


def load_davis(root: Path, split: str = "val") -> tuple[DavisVideo, ...]:
    """List the videos of a split; annotations are looked at video by video, later."""
    folder = next((place for place in (root, root / "DAVIS") if (place / "JPEGImages" / RESOLUTION).is_dir()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{str(root)!r} holds no JPEGImages/{RESOLUTION}, nor does DAVIS in it: unpack "
            "DAVIS-2017-trainval-480p.zip and give its folder"
        )
    listed = folder / "ImageSets" / "2017" / f"{split}.txt"
    if not listed.is_file():
        raise FileNotFoundError(f"{str(listed)!r} does not exist: choose a split that ImageSets/2017 lists")
    names = listed.read_text(encoding="utf-8").split()
    if not names:
        raise ValueError(f"{str(listed)!r} names no video: unpack the archive again")
    return tuple(_video(folder, name) for name in names)


def read_mask(file: Path) -> Mask:
    """Read the indices of an indexed (or 8-bit grey) PNG.

    Returns:
        Shape: (height, width).
    """
    try:
        with Image.open(file) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(
                    f"{str(file)!r} holds {image.mode} colours, a mask holds indices of objects: use the indexed PNG "
                    "of the archive"
                )
            return np.asarray(image, dtype=np.uint8).copy()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{str(file)!r} is no readable mask ({error}): replace it") from None


def write_mask(file: Path, mask: NDArray[Any]) -> None:
    """Write an indexed PNG with DAVIS's colours, whole or not at all.

    Args:
        file: Ends in .png.
        mask: Indices from 0 to 255. Shape: (height, width).
    """
    image = Image.fromarray(mask.astype(np.uint8)).convert("L")
    image.putpalette([channel for colour in PALETTE for channel in colour])
    with atomic_write(file) as temporary:
        image.save(temporary)


def _video(folder: Path, name: str) -> DavisVideo:
    if Path(name).name != name:
        raise ValueError(f"the list of videos names {name!r}, which is no name of a folder")
    frames = tuple(sorted((folder / "JPEGImages" / RESOLUTION / name).glob("*.jpg")))
    if not frames:
        raise FileNotFoundError(
            f"{str(folder / 'JPEGImages' / RESOLUTION / name)!r} holds no frames: unpack the archive again"
        )
    masks = folder / "Annotations" / RESOLUTION / name
    return DavisVideo(name, frames, tuple(masks / f"{frame.stem}.png" for frame in frames))
