"""Example pictures that need no network and no licence: fractals, drawn by this project's own code."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from synco_hub.data.fractals.drawing import Nuisance, fractal_code, render_fractals

EXAMPLE_SIDE = 256
_CLASSES = 5
_INSTANCES = (3, 11)
# Smaller than in training and always upright, so that an object stands on a ground.
_NUISANCE = Nuisance(fill=(0.5, 0.72), tilt_degrees=10.0, dark_probability=0.5)


def draw_examples(folder: Path) -> dict[str, Path]:
    """Draw the example pictures, the same ones each time.

    Args:
        folder: Where to write them; must exist.

    Returns:
        Path of each picture by its caption.
    """
    examples = {}
    for class_index in range(_CLASSES):
        name = fractal_code(class_index).name.replace("_", " ")
        for number, pixels in enumerate(render_fractals(class_index, _INSTANCES, EXAMPLE_SIDE, _NUISANCE), start=1):
            path = folder / f"{name.replace(' ', '_')}_{number}.png"
            Image.fromarray(pixels).save(path)
            examples[f"{name} {number}"] = path
    return examples
