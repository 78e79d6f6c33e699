"""The pictures of the README's section on looking: `synco-hub attention` on example pictures, shrunk.

Run: python -m space_app.tutorial --output model_cards/images
Needs the three networks that `synco-hub demo --method synco-v2|moby|byol` installs (minutes each); takes a minute.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from space_app.example_images import draw_examples
from synco_hub.atomic_write import atomic_write

logger = logging.getLogger(__name__)

DEMO_MODELS = ("synco-v2-vit-nano", "moby-vit-nano", "byol-vit-nano")
IMAGES = {"fern.png": "barnsley fern 1", "leaf.png": "maple leaf 1", "triangle.png": "sierpinski triangle 1"}
WIDTH = 1000
LARGEST_BYTES = 150_000


def commands(models: Sequence[str]) -> dict[str, list[str]]:
    """The arguments of `synco-hub attention` for each picture, by its file name.

    Args:
        models: Short names or checkpoint directories of ViTs; the first stands alone where one model is shown.
    """
    images = [argument for name in IMAGES for argument in ("--image", name)]
    several = [argument for model in models for argument in ("--model", model)]
    kinds = [part for kind in ("cls", "rollout", "tokens", "foreground") for part in ("--kind", kind)]
    return {
        "compared.png": [*several, *images],
        "heads.png": ["--model", models[0], "--image", "fern.png", "--strength", "0.8"],
        "kinds.png": ["--model", models[0], *images, *kinds, "--detail", "3", "--strength", "0.8"],
    }


def draw(output: Path, models: Sequence[str] = DEMO_MODELS) -> list[Path]:
    """Draw all pictures.

    Args:
        output: Folder to write to.
        models: See :func:`commands`.

    Returns:
        The files, JPEG, at most 1000 pixels wide and 150 kB.

    Raises:
        ValueError: If a command fails, with its own words.
    """
    models = [str(Path(model).resolve()) if Path(model).is_dir() else model for model in models]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        examples = draw_examples(folder)
        for name, example in IMAGES.items():
            shutil.copyfile(examples[example], folder / name)
        for name, arguments in commands(models).items():
            logger.info("synco-hub attention %s --output %s", shlex.join(arguments), name)
            command = [sys.executable, "-m", "synco_hub.cli", "attention", *arguments, "--output", name]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(f"{name} could not be drawn: {(done.stderr.splitlines() or ['?'])[-1]}")
        return [shrunk(folder / name, output / f"attention-{Path(name).stem}.jpg") for name in commands(models)]


def shrunk(source: Path, destination: Path) -> Path:
    """Make a picture fit for a README: a page's width is enough; colours at full resolution keep the letters sharp.

    Args:
        source: Any picture.
        destination: JPEG to write.

    Returns:
        The destination.
    """
    with Image.open(source) as figure:
        height = round(figure.height * min(WIDTH / figure.width, 1))
        small = figure.convert("RGB").resize((min(WIDTH, figure.width), height), Image.Resampling.LANCZOS)
    with atomic_write(destination) as unfinished:
        small.save(unfinished, "jpeg", quality=90, subsampling=0, optimize=True)
    if destination.stat().st_size > LARGEST_BYTES:
        logger.warning(
            "%s has %d kB, more than %d", destination, destination.stat().st_size // 1000, LARGEST_BYTES // 1000
        )
    return destination


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the pictures.

    Args:
        arguments: Command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(prog="python -m space_app.tutorial", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("model_cards/images"))
    parser.add_argument("--models", nargs="+", default=list(DEMO_MODELS))
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for path in draw(chosen.output, chosen.models):
        logger.info("wrote %s (%d kB)", path, path.stat().st_size // 1000)


if __name__ == "__main__":
    main()
