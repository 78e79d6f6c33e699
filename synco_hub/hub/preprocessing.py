"""Weights and their preprocessing are one pair: read with them, said in timm's words and back, seen by pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timm.data.transforms import str_to_pil_interp
from torch import Tensor
from transformers import AutoImageProcessor, TimmWrapperImageProcessor, ViTImageProcessor
from transformers.utils import IMAGE_PROCESSOR_NAME

from synco_hub.data.evaluation_transform import EvaluationTransform, draw_pictures, make_view, read_numbers
from synco_hub.hub.short_names import register
from synco_hub.models import image_processor

IMAGENET = "imagenet"
REMEDY = (
    "give --preprocessing DIR to take the image processor of another directory or Hub id, or --preprocessing imagenet "
    "to take ImageNet's knowingly"
)
# In normalised units; saving and loading changes no number.
_SAME = 1e-5
# Pillow, by which timm resizes, and torchvision round twice, each time at most to the next grey level.
_GREY_LEVELS = 2.01


@dataclass(frozen=True)
class Preprocessing:
    """What belongs to the weights.

    Attributes:
        processor: An image processor that can be saved.
        source: Where it is from, in words.
        original: The one that it stands for, if it was said in other words.
        chosen: Whether the user chose another one than the source's own.
        resized: Whether it was made for another size of the network than it had.
    """

    processor: Any
    source: str
    original: Any = None
    chosen: bool = False
    resized: bool = False


def open_processor(name: str | Path) -> Any:
    """The image processor of a directory, a JSON file, a short name or a Hub id; no code of it is run."""
    register()
    try:
        return AutoImageProcessor.from_pretrained(str(name), trust_remote_code=False)
    except Exception as error:  # what a file of a stranger provokes in transformers
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the image processor of {str(name)!r} cannot be read ({reason}): {REMEDY}.") from error


def choose_preprocessing(
    wanted: str | None, original: Any, image_size: int, num_channels: int, told: bool
) -> Preprocessing:
    """What is written beside converted weights.

    Args:
        wanted: What the user says: None for the source's own, `imagenet`, or where an image processor is.
        original: The source's own, None if it has none.
        image_size: Of the network, in pixels.
        num_channels: Of the network.
        told: Whether the source is of a kind that says how images are prepared.
    """
    if wanted == IMAGENET:
        assumed = image_processor(image_size, num_channels)
        return Preprocessing(assumed, "ImageNet's, as given by --preprocessing", chosen=True)
    if wanted is None and original is None:
        why = "the source has no image processor" if told else "a file of weights says nothing of it"
        assumed = image_processor(image_size, num_channels)
        return Preprocessing(
            assumed,
            f"assumed, since {why}: ImageNet's (--preprocessing DIR takes that of another directory or Hub id)",
        )
    source = "carried over with the weights"
    if wanted is not None:
        original, source = open_processor(wanted), f"that of {wanted}, as given by --preprocessing"
    chosen = wanted is not None
    if isinstance(original, TimmWrapperImageProcessor):
        translated = translate_from_timm(original)
        return Preprocessing(translated, f"{source}, from timm's pretrained_cfg", original, chosen)
    return Preprocessing(original, source, chosen=chosen)


def resize_preprocessing(preprocessing: Preprocessing, image_size: int) -> Preprocessing:
    """The same preparation for another size of the network than it was made for: every side in proportion."""
    said = preprocessing.processor.to_dict()
    try:
        old = EvaluationTransform.from_image_processor(preprocessing.processor).image_size
    except ValueError:  # without a size of its own it takes any
        return preprocessing
    if old == image_size:
        return preprocessing
    for key in {"size", "crop_size"} & {key for key, value in said.items() if isinstance(value, Mapping)}:
        said[key] = {name: round(side * image_size / old) for name, side in said[key].items() if side is not None}
    resized = type(preprocessing.processor).from_dict(said)
    if (shape := tuple(make_view(resized, Image.new("RGB", (97, 64))).shape[-2:])) != (image_size, image_size):
        raise ValueError(
            f"--image-size {image_size}: {type(resized).__name__} of {old} pixels cannot be made for it (it gives "
            f"{shape[0]} x {shape[1]}): {REMEDY}."
        )
    source = f"{preprocessing.source}, made for {image_size} pixels instead of {old}"
    return replace(preprocessing, processor=resized, source=source, resized=True)


def make_timm_processor(config: Mapping[str, Any]) -> TimmWrapperImageProcessor | None:
    """What the config.json of a timm repository says about images; None if it says nothing."""
    said = config.get("pretrained_cfg", config)
    if not isinstance(said, Mapping) or not {"mean", "std", "input_size", "crop_pct", "interpolation"} & set(said):
        return None
    try:
        return TimmWrapperImageProcessor(dict(said), architecture=str(config.get("architecture")))
    except Exception as error:  # as timm refuses values that are none
        raise ValueError(
            f"the preprocessing in config.json's pretrained_cfg cannot be read ({error}): {REMEDY}."
        ) from error


def translate_from_timm(processor: TimmWrapperImageProcessor) -> ViTImageProcessor:
    """Timm's transform as an image processor that loads anywhere, as near as Pillow's rounding allows."""
    said = processor.data_config
    channels, height, width = said["input_size"]
    squash = said["crop_mode"] == "squash"
    if said["crop_mode"] == "border" or (height != width and not squash):
        raise ValueError(
            f"timm's crop_mode {said['crop_mode']!r} of {height} x {width} pixels is nothing that ViTImageProcessor "
            f"can do: {REMEDY}."
        )
    scaled = tuple(math.floor(side / said["crop_pct"]) for side in (height, width))
    return ViTImageProcessor(
        size={"height": scaled[0], "width": scaled[1]} if squash else {"shortest_edge": scaled[0]},
        resample=str_to_pil_interp(said["interpolation"]),
        do_center_crop=not squash or scaled != (height, width),
        crop_size={"height": height, "width": width},
        image_mean=list(said["mean"]),
        image_std=list(said["std"]),
        do_convert_rgb=channels == 3,
    )


def translate_to_timm(processor: Any) -> dict[str, Any]:
    """An image processor in the words of timm's pretrained_cfg, held against timm's own transform."""
    numbers, remedy = read_numbers(processor), "export to transformers or onnx, which take the processor itself"
    if numbers is None:
        raise ValueError(f"{type(processor).__name__} does what no pretrained_cfg of timm says: {remedy}.")
    size, resized = numbers.image_size, numbers.resize_size
    if len(set(resized)) > 1:
        raise ValueError(f"a resize to {resized} before a square crop is nothing that timm does: {remedy}.")
    fraction = size / resized[0]
    while math.floor(size / fraction) < resized[0]:  # timm divides back and rounds down
        fraction = math.nextafter(fraction, 0)
    words = {
        "input_size": [len(numbers.mean), size, size],
        "interpolation": numbers.interpolation.value,
        "crop_pct": fraction,
        "crop_mode": "center" if len(resized) == 1 else "squash",
        "mean": list(numbers.mean),
        "std": list(numbers.std),
    }
    levels = compare_with_timm(processor, TimmWrapperImageProcessor(dict(words)))
    if levels > _GREY_LEVELS:
        raise ValueError(
            f"{type(processor).__name__} does what no pretrained_cfg of timm says (a picture differs by up to "
            f"{levels:.0f} grey levels): {remedy}."
        )
    return words


def compare_with_timm(processor: Any, timm_processor: TimmWrapperImageProcessor) -> float:
    """Largest difference in grey levels, where both crops lie at the same place.

    Half a pixel beside the crop is rounded down by transformers and to the even side by torchvision, which timm uses.
    """
    numbers = EvaluationTransform.from_image_processor(timm_processor)
    size, fraction = numbers.image_size, timm_processor.data_config["crop_pct"]
    resized = math.floor(size / fraction)
    scale = 255 * torch.tensor(numbers.std).view(-1, 1, 1)
    largest = 0.0
    for picture in _draw_aligned(size, resized):
        lying = picture.width > picture.height
        views = [make_view(each, picture) for each in (processor, timm_processor)]
        if views[0].shape != views[1].shape:
            return 255.0
        # Where the rest is three quarters of four pixels, one crop lies one pixel further.
        further, squash = (resized - size) % 4 == 3, timm_processor.data_config["crop_mode"] == "squash"
        top, left = further and (squash or lying), further and (squash or not lying)
        ours = views[0][:, int(top) :, int(left) :]
        theirs = views[1][:, : ours.shape[1], : ours.shape[2]]
        largest = max(largest, float(((ours - theirs) * scale).abs().max()))
    return largest


def save_processor(processor: Any, directory: Path) -> Any:
    """Write an image processor and load it again; a picture must come out the same."""
    processor.save_pretrained(directory)
    loaded = open_processor(directory / IMAGE_PROCESSOR_NAME)
    height, width = make_view(processor, Image.new("RGB", (64, 64))).shape[-2:]
    for picture in draw_pictures((height, width)):
        view, again = make_view(processor, picture), make_view(loaded, picture)
        if view.shape != again.shape or float((view - again).abs().max()) > _SAME:
            raise ValueError(
                f"{type(processor).__name__} does another thing once it is saved and loaded again: {REMEDY}."
            )
    return loaded


def make_pair_pictures(processor: Any, image_size: int) -> list[tuple[Image.Image, Tensor]]:
    """Drawn pictures, wider and higher than a view, each with the view (1, channels, height, width) of it.

    A processor without a size of its own is given pictures of the network's size.
    """
    try:
        transform = EvaluationTransform.from_image_processor(processor)
        pictures = _draw_aligned(transform.image_size, transform.resize_size[0])
    except ValueError:
        pictures = [next(draw_pictures((64, 64))).resize((image_size, image_size))]
    return [(picture, make_view(processor, picture)[None]) for picture in pictures]


def describe_steps(processor: Any) -> str:
    """What an image processor does, in a line."""
    try:
        return repr(EvaluationTransform.from_image_processor(processor))
    except ValueError:
        return f"{type(processor).__name__} itself, images of any size"


def _draw_aligned(size: int, resized: int) -> list[Image.Image]:
    """A lying and a standing picture of which a whole number of pixels is left on both sides of the crop."""
    longer = size + 2 * round((1.3 * resized - size) / 2)
    drawn = next(draw_pictures((64, 64)))
    sizes = ((2 * longer, 2 * resized), (2 * resized, 2 * longer))
    return [drawn.resize(each, Image.Resampling.BICUBIC) for each in sizes]
