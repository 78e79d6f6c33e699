"""Unsupervised object discovery: one box an image from a frozen ViT, measured by CorLoc on PASCAL VOC.

Published for VOC 2007 trainval with DINO ViT-S/16: LOST 61.9 %, TokenCut 68.8 % (the methods' own reports).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from synco_hub.data import decode_rgb
from synco_hub.data.voc_boxes import BoxedImage, load_voc_boxes
from synco_hub.errors import FlagError
from synco_hub.evaluation.dense_features import pad_to_patches, patch_sides, pixel_values
from synco_hub.evaluation.leaks import PictureFiles
from synco_hub.evaluation.measurement import EvaluatedModel, format_metrics, model_source, save_each
from synco_hub.evaluation.resume import ResumableFolder, hash_files, identify_model
from synco_hub.feature_pooling import find_feature_network
from synco_hub.features import eval_mode
from synco_hub.metrics import correct_localization
from synco_hub.metrics.accuracy import standard_error
from synco_hub.metrics.correct_localization import IOU_THRESHOLD
from synco_hub.results import DataSource, EvaluationResult, ProtocolFacts, device_name
from synco_hub.settings import DatasetChoice, DiscoverySettings
from synco_hub.visualization.annotation_figures import BoxedPicture, box_figure
from synco_hub.visualization.figures import save_figure
from synco_hub.visualization.recorded_attention import last_keys
from synco_hub.visualization.token_maps import SIMILARITY_THRESHOLD, find_connected_region, foreground_mask

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUM_SEED_PATCHES = 100
# Images after which the boxes on disk are renewed.
_KEPT_EVERY = 50
_BOXES_FILE = "boxes.json"


def evaluate(
    model: EvaluatedModel, data: DatasetChoice, settings: DiscoverySettings, output: Path | None = None
) -> EvaluationResult:
    """Measure a ViT on a folder of VOC2007; some boxes are drawn to `settings.figure`, if that is given."""
    if data.data_dir is None:
        raise FlagError("--data-dir is missing: give VOC2007, or the folder that holds it or VOCdevkit.")
    images = load_voc_boxes(Path(data.data_dir), settings.split)
    chosen = images[: settings.num_images]
    model.check_leak(PictureFiles("voc2007", [(image.name, image.file) for image in chosen]), settings.progress)
    result, boxes = evaluate_discovery(model, chosen, settings, len(images))
    save_each([result], output)
    if settings.figure is not None:
        title = f"{result.protocol.parameters['method']}, {model.name}"
        save_figure(_draw_boxes(chosen, boxes, settings.figure_images, title), settings.figure)
    return result


def format_table(result: EvaluationResult) -> str:
    """What found how many boxes, and CorLoc."""
    about = result.dataset
    return (
        f"{result.protocol.parameters['method']} on {about.count} images of {about.name} ({about.split})\n"
        f"{format_metrics(result.metrics, 6, result.standard_errors)}"
    )


def evaluate_discovery(
    model: EvaluatedModel,
    images: Sequence[BoxedImage],
    settings: DiscoverySettings | None = None,
    listed: int | None = None,
) -> tuple[EvaluationResult, Tensor]:
    """Find one box in each image and compare it with the annotated ones.

    Returns:
        CorLoc in percent, and the boxes found. Shape: (images, 4).
    """
    started = time.perf_counter()
    settings = settings or DiscoverySettings()
    method = METHODS[settings.method]
    parameters = {"method": method.title, **method.parameters, "features": "keys of the last block"}
    parameters |= {"iou_threshold": IOU_THRESHOLD, "max_side": settings.max_side}
    look = {"mean": model.mean, "std": model.std}
    identity = {**parameters, **look, **identify_model(find_feature_network(model.network))}
    folder = ResumableFolder(None if settings.save_boxes is None else Path(settings.save_boxes), identity)
    boxes = torch.tensor(_find_boxes(model, images, settings, folder), dtype=torch.float64).reshape(-1, 4)
    corloc = 100 * correct_localization(boxes, [image.boxes for image in images])
    partial = listed is not None and len(images) < listed
    result = EvaluationResult(
        metrics={"corloc": corloc},
        standard_errors={"corloc": standard_error(corloc, len(images))},
        model=model_source(model.network, model.name, model.revision),
        dataset=DataSource(
            "voc2007", settings.split, len(images), description="Boxes of all classes, difficult ones included"
        ),
        protocol=ProtocolFacts("discovery", parameters),
        preprocessing={"steps": "own size, zeros up to whole patches", **look},
        device=device_name(settings.device or next(model.network.parameters()).device),
        duration_s=time.perf_counter() - started,
        partial=partial,
        notes=(f"the first {len(images)} of {listed} images",) if partial else (),
    )
    return result, boxes


def discover_box(model: EvaluatedModel, picture: Image.Image, settings: DiscoverySettings) -> list[float]:
    """The box of the one object that a method finds in an image.

    Returns:
        Left, top, right, bottom in pixels of the picture, right and bottom excluded.
    """
    width, height = picture.size
    longest = max(width, height)
    if settings.max_side is not None and longest > settings.max_side:
        size = [max(round(side * settings.max_side / longest), 1) for side in (width, height)]
        picture = picture.resize((size[0], size[1]), Image.Resampling.BICUBIC)
    network = find_feature_network(model.network)
    sides = patch_sides(network)
    pixels = pad_to_patches(pixel_values(picture, model.mean, model.std), sides)
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
    """Left, top, right, bottom of the smallest box around a mask (rows, columns); right and bottom excluded."""
    rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
    if len(rows) == 0:
        raise ValueError("an empty mask has no box: the features are NaN or all alike; check the checkpoint")
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def lost_mask(keys: Tensor, k_patches: int = NUM_SEED_PATCHES) -> Tensor:
    """LOST: the patch least like the others starts an object, the patches like it complete it.

    The seed is the patch with the fewest positively correlated patches (the first of them). Of the `k_patches` with
    the fewest, those positively correlated with the seed vote: a patch belongs to the object if its correlations with
    them sum to more than zero and it is connected with the seed.

    Args:
        keys: Keys of the last block, neither centred nor normalised. Shape: (rows, columns, dim).
        k_patches: How many patches of least degree may vote; the paper's is 100.

    Returns:
        True on the object, one connected region (4-neighbourhood). Shape: (rows, columns).

    Source: Siméoni et al., "Localizing objects with self-supervised transformers and no labels" (2021), sections 3.2
    and 3.3.
    """
    if k_patches < 1:
        raise ValueError(f"k_patches={k_patches}: at least the seed votes; LOST's is 100")
    flat = keys.flatten(0, 1).double()  # (patches, dim)
    correlations = flat @ flat.T
    others = correlations.clone().fill_diagonal_(0)
    least_first = (others > 0).sum(dim=1).sort(stable=True).indices
    seed = int(least_first[0])
    candidates = least_first[:k_patches]
    voters = candidates[correlations[seed, candidates] > 0]
    object_ = correlations[voters].sum(dim=0) > 0
    at_seed = torch.zeros_like(object_)
    at_seed[seed] = True
    shape = keys.shape[:2]
    return find_connected_region(object_.unflatten(0, shape)[None], at_seed.unflatten(0, shape)[None])[0]


def _token_cut(keys: Tensor) -> Tensor:
    return foreground_mask(keys[None], SIMILARITY_THRESHOLD, centred=False)[0]


@dataclass(frozen=True)
class Method:
    """From the keys of a ViT's last block (rows, columns, dim) to the mask of an object (rows, columns).

    Attributes:
        title: Its name.
        mask: The function.
        parameters: Its settings, for the result.
    """

    title: str
    mask: Callable[[Tensor], Tensor]
    parameters: Mapping[str, Any]


METHODS: dict[str, Method] = {
    "lost": Method("LOST", lost_mask, {"k_patches": NUM_SEED_PATCHES}),
    "tokencut": Method("TokenCut", _token_cut, {"tau": SIMILARITY_THRESHOLD}),
}


def _find_boxes(
    model: EvaluatedModel, images: Sequence[BoxedImage], settings: DiscoverySettings, folder: ResumableFolder
) -> list[list[float]]:
    """One box an image; known ones of the same file are taken, new ones join them and go to disk now and then."""
    title, known = f"{METHODS[settings.method].title} boxes", folder.load(_BOXES_FILE)
    found, fresh = [], 0
    with eval_mode(find_feature_network(model.network), settings.device):
        for image in tqdm(images, title, unit="img", disable=not settings.progress):
            contents = hash_files([image.file])
            entry = known.get(image.name)
            if entry is None or entry["contents"] != contents:
                entry = {"contents": contents, "box": discover_box(model, decode_rgb(image.file), settings)}
                known[image.name] = entry
                fresh += 1
                if fresh % _KEPT_EVERY == 0:
                    folder.save(_BOXES_FILE, known)
            found.append(entry["box"])
    if fresh:
        folder.save(_BOXES_FILE, known)
    return found


def _draw_boxes(images: Sequence[BoxedImage], boxes: Tensor, count: int, title: str) -> Figure:
    """Found and annotated boxes of images at even distances over the split."""
    count = min(count, len(images))
    places = [number * len(images) // count for number in range(count)]
    pictures = [
        BoxedPicture(decode_rgb(images[place].file), boxes[place], images[place].boxes, images[place].name)
        for place in places
    ]
    return box_figure(pictures, title=title)
