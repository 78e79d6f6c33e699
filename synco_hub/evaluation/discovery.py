"""Unsupervised object discovery: one box an image from a frozen ViT, measured by CorLoc on PASCAL VOC.

Published for VOC 2007 trainval with DINO ViT-S/16: LOST 61.9 %, TokenCut 68.8 % (the methods' own reports).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from synco_hub.data import decode_rgb
from synco_hub.data.voc_boxes import BoxedImage
from synco_hub.evaluation.dense.any_size import pad_to_patches, patch_sides, pixel_values
from synco_hub.evaluation.dense.lost import NUM_SEED_PATCHES, lost_mask
from synco_hub.evaluation.measurement.image_contents import contents_of_files
from synco_hub.evaluation.measurement.measured_split import model_source
from synco_hub.evaluation.measurement.model_identity import model_identity
from synco_hub.evaluation.measurement.resumable_folder import claim_folder, read_json, write_json
from synco_hub.feature_adapter import feature_network
from synco_hub.frozen import frozen
from synco_hub.metrics import correct_localization
from synco_hub.metrics.correct_localization import IOU_THRESHOLD
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.visualization.recorded_attention import last_keys
from synco_hub.visualization.token_maps import SIMILARITY_THRESHOLD, foreground_mask

# Images after which the boxes on disk are renewed.
_KEPT_EVERY = 50
_BOXES_FILE = "boxes.json"


def _token_cut(keys: Tensor) -> Tensor:
    return foreground_mask(keys[None], SIMILARITY_THRESHOLD, centred=False)[0]


@dataclass(frozen=True)
class DiscoveryMethod:
    """From the keys of a ViT's last block (rows, columns, dim) to the mask of an object (rows, columns).

    Attributes:
        title: Its name.
        mask: The function.
        parameters: Its settings, for the result.
    """

    title: str
    mask: Callable[[Tensor], Tensor]
    parameters: Mapping[str, Any]


METHODS: dict[str, DiscoveryMethod] = {
    "lost": DiscoveryMethod("LOST", lost_mask, {"k_patches": NUM_SEED_PATCHES}),
    "tokencut": DiscoveryMethod("TokenCut", _token_cut, {"tau": SIMILARITY_THRESHOLD}),
}


@dataclass(frozen=True)
class DiscoverySettings:
    """How boxes are found.

    Attributes:
        method: `lost` or `tokencut`.
        max_side: Longest side in pixels at which the network sees an image; None for its own, as both methods do.
        mean: Of each channel.
        std: Of each channel.
        device: Where it runs; None for where the model is.
        progress: Show a progress bar.

    Raises:
        ValueError: If the method is unknown or the side not positive.
    """

    method: str = "lost"
    max_side: int | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    device: str | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r} is unknown: use one of {', '.join(METHODS)}")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side={self.max_side} is not positive: leave it out for the images' own size")


def evaluate_discovery(
    model: nn.Module,
    images: Sequence[BoxedImage],
    settings: DiscoverySettings | None = None,
    model_name: str | None = None,
    split: str = "trainval",
    folder: Path | None = None,
    listed: int | None = None,
) -> tuple[EvaluationResult, Tensor]:
    """Find one box in each image and compare it with the annotated ones.

    Args:
        model: A ViT with global attention that takes images of any size; it stays as it is.
        images: Files and annotated boxes of all classes.
        settings: How boxes are found.
        model_name: What the result calls the model.
        split: Name of the split.
        folder: Where boxes are kept, and taken from when they are of the same model, settings and files.
        listed: Images that the split has; fewer given make the result partial. None for as many as are given.

    Returns:
        CorLoc in percent, and the boxes found. Shape: (images, 4).

    Raises:
        ValueError: If there is no image, the model is no such ViT, or the folder belongs to another measurement.
    """
    started = time.perf_counter()
    settings = settings or DiscoverySettings()
    method = METHODS[settings.method]
    parameters = {"method": method.title, **method.parameters, "features": "keys of the last block"}
    parameters |= {"iou_threshold": IOU_THRESHOLD, "max_side": settings.max_side}
    known: dict[str, Any] = {}
    if folder is not None:
        look = {"mean": settings.mean, "std": settings.std}
        claim_folder(folder, {**parameters, **look, **model_identity(feature_network(model))})
        known = read_json(folder / _BOXES_FILE) if (folder / _BOXES_FILE).is_file() else {}
    boxes = torch.tensor(_found_boxes(model, images, settings, known, folder), dtype=torch.float64).reshape(-1, 4)
    corloc = 100 * correct_localization(boxes, [image.boxes for image in images])
    partial = listed is not None and len(images) < listed
    result = EvaluationResult(
        metrics={"corloc": corloc},
        model=model_source(model, model_name),
        dataset=DataSource("voc2007", split, len(images), description="Boxes of all classes, difficult ones included"),
        protocol=ProtocolFacts("discovery", parameters),
        preprocessing={"steps": "own size, zeros up to whole patches", "mean": settings.mean, "std": settings.std},
        device=device_name(settings.device or next(model.parameters()).device),
        duration_s=time.perf_counter() - started,
        partial=partial,
        notes=(f"the first {len(images)} of {listed} images",) if partial else (),
    )
    return result, boxes


def discovered_box(network: nn.Module, picture: Image.Image, settings: DiscoverySettings) -> list[float]:
    """The box of the one object that a method finds in an image.

    Args:
        network: What :func:`synco_hub.feature_adapter.feature_network` gave.
        picture: RGB.
        settings: How.

    Returns:
        Left, top, right, bottom in pixels of the picture, right and bottom excluded.

    Raises:
        ValueError: If the network gives NaN.
    """
    width, height = picture.size
    longest = max(width, height)
    if settings.max_side is not None and longest > settings.max_side:
        size = [max(round(side * settings.max_side / longest), 1) for side in (width, height)]
        picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    sides = patch_sides(network)
    pixels = pad_to_patches(pixel_values(picture, settings.mean, settings.std), sides)
    keys = last_keys(network, pixels)[0]
    if not bool(torch.isfinite(keys).all()):
        raise ValueError("keys of the last block are NaN or infinite: no object can be told; check the checkpoint")
    mask = METHODS[settings.method].mask(keys)
    left, top, right, bottom = mask_box(mask)
    across, down = width / picture.width, height / picture.height
    return [
        left * sides[1] * across,
        top * sides[0] * down,
        # The last patches may reach beyond the picture.
        min(right * sides[1], picture.width) * across,
        min(bottom * sides[0], picture.height) * down,
    ]


def mask_box(mask: Tensor) -> tuple[int, int, int, int]:
    """The smallest box around a mask.

    Args:
        mask: Boolean, not empty. Shape: (rows, columns).

    Returns:
        Left, top, right, bottom; right and bottom excluded.

    Raises:
        ValueError: If the mask is empty.
    """
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError("an empty mask has no box: the features are NaN or all alike; check the checkpoint")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _found_boxes(
    model: nn.Module,
    images: Sequence[BoxedImage],
    settings: DiscoverySettings,
    known: dict[str, Any],
    folder: Path | None,
) -> list[list[float]]:
    """One box an image; `known` ones of the same file are taken, new ones join them and go to disk now and then."""
    title = f"{METHODS[settings.method].title} boxes"
    found, fresh = [], 0
    with frozen(feature_network(model), settings.device) as network:
        for image in tqdm(images, title, unit="img", disable=not settings.progress):
            contents = contents_of_files([image.file])
            entry = known.get(image.name)
            if entry is None or entry["contents"] != contents:
                entry = {"contents": contents, "box": discovered_box(network, decode_rgb(image.file), settings)}
                known[image.name] = entry
                fresh += 1
                if folder is not None and fresh % _KEPT_EVERY == 0:
                    write_json(folder / _BOXES_FILE, known)
            found.append(entry["box"])
    if folder is not None and fresh:
        write_json(folder / _BOXES_FILE, known)
    return found
