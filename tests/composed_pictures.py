"""Pictures whose masks are known for nothing: cut-outs with an alpha channel, pasted on photographs.

A picture is a square crop of a photograph, at least half as wide as its shorter side, resized; on it one to three
cut-outs, each of a class drawn evenly, a third to two thirds as large as the picture, mirrored or not, anywhere
inside. Where a cut-out's alpha is at least a half, the mask has its class (from 1); later ones cover earlier ones; 0
is the photograph. Everything is drawn by one generator, so a seed gives the same pictures everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CUT_OUTS_AT_MOST = 3
# Longer side of a cut-out over that of the picture.
SMALLEST, LARGEST = 1 / 3, 2 / 3
OPAQUE = 128


def compose(
    photographs: Sequence[Image.Image],
    cut_outs: Sequence[Sequence[Image.Image]],
    size: int,
    generator: np.random.Generator,
) -> tuple[Image.Image, np.ndarray]:
    """One picture and its mask; `cut_outs` holds the RGBA pictures of each class, in the order of their numbers."""
    photograph = photographs[generator.integers(len(photographs))]
    side = int(generator.integers(min(photograph.size) // 2, min(photograph.size) + 1))
    left, top = (int(generator.integers(length - side + 1)) for length in photograph.size)
    picture = photograph.convert("RGB").resize((size, size), box=(left, top, left + side, top + side))
    mask = np.zeros((size, size), dtype=np.uint8)
    for _ in range(generator.integers(1, CUT_OUTS_AT_MOST + 1)):
        number = int(generator.integers(len(cut_outs)))
        stamp = cut_outs[number][generator.integers(len(cut_outs[number]))]
        longest = generator.uniform(SMALLEST * size, LARGEST * size)
        width, height = (max(round(length * longest / max(stamp.size)), 1) for length in stamp.size)
        stamp = stamp.resize((width, height), Image.Resampling.LANCZOS)
        if generator.integers(2):
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        x, y = (int(generator.integers(size - length + 1)) for length in (width, height))
        picture.paste(stamp, (x, y), stamp)
        opaque = np.asarray(stamp.getchannel("A")) >= OPAQUE
        mask[y : y + height, x : x + width][opaque] = number + 1
    return picture, mask


def write_pictures(
    folder: Path,
    split: str,
    count: int,
    photographs: Sequence[Image.Image],
    cut_outs: Sequence[Sequence[Image.Image]],
    size: int = 64,
    seed: int = 0,
) -> None:
    """Pictures in images/<split>, masks in masks/<split>, as `evaluate segmentation` reads them."""
    generator = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind / split).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        picture, mask = compose(photographs, cut_outs, size, generator)
        picture.save(folder / "images" / split / f"{index:05}.png")
        Image.fromarray(mask).save(folder / "masks" / split / f"{index:05}.png")


def draw_cut_outs() -> list[list[Image.Image]]:
    """Two classes that are drawn here: red discs and blue triangles."""
    found = []
    for colour, corners in ((200, 40, 30), None), ((30, 60, 210), [(32, 2), (62, 62), (2, 62)]):
        stamp = Image.new("RGBA", (64, 64))
        pen = ImageDraw.Draw(stamp)
        pen.ellipse((2, 2, 62, 62), fill=colour) if corners is None else pen.polygon(corners, fill=colour)
        found.append([stamp])
    return found


def draw_photographs(count: int = 3, size: int = 96) -> list[Image.Image]:
    """Smooth noise in place of photographs."""
    generator = np.random.default_rng(1)
    small = [generator.integers(60, 200, (6, 6, 3), dtype=np.uint8) for _ in range(count)]
    return [Image.fromarray(each).resize((size, size), Image.Resampling.BICUBIC) for each in small]


def find_cut_outs(folder: Path, classes: Sequence[str]) -> list[list[Path]]:
    """Files of each class, a folder below `folder`, whose alpha channel is a cut-out: neither all nor nothing."""
    return [[path for path in sorted((folder / name).rglob("*.png")) if is_cut_out(path)] for name in classes]


def is_cut_out(path: Path) -> bool:
    """Whether between a twentieth and nineteen twentieths of a picture are opaque, and its corners are not."""
    with Image.open(path) as image:
        if image.mode != "RGBA" and "transparency" not in image.info:
            return False
        alpha = np.asarray(image.convert("RGBA").getchannel("A")) >= OPAQUE
    corners = alpha[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    return bool(0.05 < alpha.mean() < 0.95) and not corners
