"""Data sets of somebody else as pairs of views: what their items are, and random draws that come again.

A data set of torch, torchvision or `datasets` is asked by position and gives an image, one finished view or two,
alone, in a tuple before its labels, or in a dict. What it and its transform draw from the global generators of torch,
numpy and Python belongs to (seed, epoch, index), so that a resumed run sees the same views; what they draw from
generators of their own, or in their own collator by what came before, need not come again.
"""

from __future__ import annotations

import inspect
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from synco_hub.data.decoding import UnreadableImageError, convert_to_rgb, decode_rgb
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.views.parameters import TwoViewParameters

_CHANNELS = (1, 3, 4)
_NUMBERED_VIEW = re.compile(r"view_?(\d+)")
_LARGEST_SEED = 2**32


@contextmanager
def repeatable_draws(key: int) -> Iterator[None]:
    """Seed the global generators within, and leave them as they were: training draws from them too."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(key)  # the CPU's alone: workers may touch no GPU
    np.random.seed(key % _LARGEST_SEED)
    random.seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


# What an item is


def find_images(item: Any) -> list[Any]:
    """The image of an item, or its two views.

    Raises:
        ValueError: If it holds none, more than two, or several of which none is called a view.
    """
    found = _images_in(item)
    if len(found) not in (1, 2):
        what = "no image" if not found else f"{len(found)} views of an image"
        raise ValueError(
            f"An item of the data set gives {what} ({_describe(item)}): give an image, or two views as a tuple or as "
            "view_1 and view_2; labels may follow."
        )
    return found


def _images_in(item: Any) -> list[Any]:
    if is_image(item):
        return [item]
    if isinstance(item, Tensor | np.ndarray) and item.ndim == 4:
        return list(item)
    if isinstance(item, Mapping):
        return _images_of_columns(item)
    if isinstance(item, tuple | list) and item:
        first = _images_in(item[0])
        # (image, label) and ((view, view), label), but (view, view, label) too.
        return first if len(first) != 1 else [*first, *(other for other in item[1:] if _alike(other, first[0]))]
    return []


def _images_of_columns(item: Mapping[str, Any]) -> list[Any]:
    if {"bytes", "path"} == set(item):
        return [decode_rgb(item["bytes"] if item["bytes"] is not None else item["path"], item["path"])]
    views = sorted(name for name in item if _NUMBERED_VIEW.fullmatch(str(name)))
    if views:
        return [image for name in views for image in _images_in(item[name])]
    columns = {name: images for name, value in item.items() if (images := _images_in(value))}
    if len(columns) > 1:
        raise ValueError(
            f"An item of the data set has several columns of images ({', '.join(map(str, columns))}): keep one, as by "
            "select_columns of `datasets`, or call two views view_1 and view_2."
        )
    return next(iter(columns.values()), [])


def is_image(value: Any) -> bool:
    """Whether a value is one image: Pillow's, or an array of height, width and channels in either order."""
    if isinstance(value, Image.Image):
        return True
    if not isinstance(value, Tensor | np.ndarray):
        return False
    if value.ndim == 3:
        return value.shape[0] in _CHANNELS or value.shape[-1] in _CHANNELS
    # Gray without channels; boxes and other targets are no 8-bit values.
    return value.ndim == 2 and value.dtype in (torch.uint8, np.uint8)


def _alike(other: Any, first: Any) -> bool:
    """Whether a further element is a view too: a mask or a target is no picture of the same kind."""
    if isinstance(first, Image.Image):
        return isinstance(other, Image.Image) and other.mode == first.mode
    return is_image(other) and first.ndim == 3 and other.shape == first.shape and other.dtype == first.dtype


def _describe(item: Any) -> str:
    if isinstance(item, Mapping):
        inner = ", ".join(f"{name}: {_describe(value)}" for name, value in item.items())
        return f"a dict of {inner}" if inner else "an empty dict"
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of {', '.join(map(_describe, item[:4])) or 'nothing'}"
    if isinstance(item, Tensor | np.ndarray):
        return f"{type(item).__name__} {tuple(item.shape)}"
    return type(item).__name__


def is_finished(image: Any) -> bool:
    """Whether an image is a view as a network takes it: floating values."""
    return isinstance(image, Tensor | np.ndarray) and _tensor(image).is_floating_point()


def _tensor(image: Any) -> Tensor:
    # A copy, since pixels of Pillow are read-only, which torch warns of.
    return image if isinstance(image, Tensor) else torch.from_numpy(np.array(image, order="C"))


def _channels_first(image: Any) -> Tensor:
    """Shape: (channels, height, width). Where both ends could be channels, torch has them first, numpy last."""
    values = _tensor(image)
    if values.ndim == 2:
        return values[None]
    first, last = values.shape[0] in _CHANNELS, values.shape[-1] in _CHANNELS
    return values.permute(2, 0, 1) if last and not (first and isinstance(image, Tensor)) else values


def to_pixels(image: Any) -> npt.NDArray[np.uint8]:
    """An image as RGB. Shape: (height, width, 3)."""
    if not isinstance(image, Image.Image):
        values = _channels_first(image)
        if values.is_floating_point() or values.dtype == torch.bool:
            values = (values.float().clamp(0, 1) * 255).round()
        elif values.dtype != torch.uint8 and values.float().max() > 255:
            values = (values.float() * (255 / (2**16 - 1))).round()
        array = values.to(torch.uint8).permute(1, 2, 0).numpy()
        image = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    return np.array(convert_to_rgb(image))


def to_view(image: Any) -> Tensor:
    """An image as a network takes it: floating values as they are, others normalised. Shape: (3, height, width)."""
    if is_finished(image):
        values = _channels_first(image).float()
        return values.expand(3, -1, -1).contiguous() if values.shape[0] == 1 else values
    pixels = torch.from_numpy(to_pixels(image)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (TwoViewParameters.mean, TwoViewParameters.std))
    return (pixels - mean) / std


# Who makes the views


def takes_key(transform: Callable[..., Any]) -> bool:
    """Whether a transform wants (pixels, key), as `TwoViewTransform`; all others, torchvision's too, want an image."""
    function = transform.forward if isinstance(transform, nn.Module) else transform
    try:
        wanted = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    plain = [each for each in wanted if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    needed = [each for each in plain if each.default is each.empty]
    return len(needed) == 2 or (len(plain) == 2 and len(needed) < 2 and plain[1].name.endswith("key"))


class OwnTransform:
    """Two views by a function of an image that gives both, or one at each of two calls.

    Args:
        make: From an image, or whatever it is called with, to a view or two.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __call__(self, source: Any, key: int) -> tuple[Tensor, Tensor]:
        """Make the views of a key. Shape of each: (3, height, width)."""
        views: list[Tensor] = []
        while len(views) < 2:
            with repeatable_draws(derive_random_key(key, len(views))):
                views += [to_view(image) for image in find_images(self.make(source))]
        return views[0], views[1]

    def __repr__(self) -> str:
        return repr(self.make)


class OwnImages:
    """A data set of somebody else as images by position.

    Args:
        dataset: With a length, asked by whole numbers.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def load(self, index: int) -> Any:
        """One image, as its data set gives it; Pillow's in RGB."""
        try:
            image = find_images(self.dataset[index])[0]
            return convert_to_rgb(image) if isinstance(image, Image.Image) else image
        # Pillow's errors of a damaged file.
        except (OSError, SyntaxError) as error:
            raise UnreadableImageError(self.name(index), str(error).split("\n", 1)[0]) from error

    def load_item(self, index: int) -> Any:
        """One item, as its data set gives it."""
        try:
            return self.dataset[index]
        except (OSError, SyntaxError) as error:
            raise UnreadableImageError(self.name(index), str(error).split("\n", 1)[0]) from error

    def load_pixels(self, index: int) -> npt.NDArray[np.uint8]:
        """One image as RGB. Shape: (height, width, 3)."""
        return to_pixels(self.load(index))

    def name(self, index: int) -> str:
        """How reports name one image: its file where a data set of torchvision knows it."""
        files: Sequence[Any] | None = getattr(self.dataset, "samples", None)
        known = (
            files is not None and isinstance(files[index], tuple) and isinstance(files[index][0], str | os.PathLike)
        )
        return os.fspath(files[index][0]) if known and files is not None else f"image {index}"


# What is found out before the first step

# Items that are looked at.
_PROBED = 8


def probe_items(dataset: Any, seed: int) -> Any:
    """The first readable item of a data set, None if it is indexed by (epoch, index) and gives views.

    Raises:
        ValueError: If it cannot be asked by position.
    """
    _refuse_no_dataset(dataset)
    item = failure = None
    for index in range(min(len(dataset), _PROBED)):
        try:
            with repeatable_draws(derive_random_key(seed, 0, index)):
                item = dataset[index]
            break
        except Exception as error:
            failure = failure or error
    # What was written for `SynCoTrainer` alone, or tells nothing.
    if _is_keyed(dataset, item, seed) or (isinstance(item, Mapping) and not item):
        return None
    if item is None and failure is not None:
        raise failure
    return item


def _is_keyed(dataset: Any, item: Any, seed: int) -> bool:
    if item is not None and not (isinstance(item, Mapping) and "bad_index" in item):
        return False
    try:
        with repeatable_draws(seed):
            pair = dataset[0, 0]
        shapes = [tuple(getattr(each["view_1"], "shape", ())) for each in (pair, item or pair)]
    except Exception:
        return False
    return "view_2" in pair and shapes[0] == shapes[1]


def _refuse_no_dataset(dataset: Any) -> None:
    kind = type(dataset).__name__
    if dataset is None or isinstance(dataset, str | os.PathLike):
        raise ValueError(
            f"train_dataset={dataset!r} is no data set: give synco_hub.data.load_dataset(PATH_OR_NAME), a folder of "
            "torchvision, or a data set of `datasets`."
        )
    if isinstance(dataset, Mapping):
        names = ", ".join(map(repr, dataset))
        raise ValueError(f"train_dataset is a {kind} of several, {names}: give one, as dataset[NAME].")
    if isinstance(dataset, DataLoader):
        raise ValueError("train_dataset is a DataLoader: give its data set; the trainer makes the batches.")
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise ValueError(
            f"train_dataset is a {kind}, which cannot be asked by position, so a stopped run could not go on where "
            "it was: give a data set with len() and [index] (of `datasets`, one that is not streamed), or read "
            "parquet, webdataset or Hub data by `synco-hub pretrain --streaming`."
        )
    if not len(dataset):
        raise ValueError(f"train_dataset is an empty {kind}: give a data set with images.")


def draws_views(dataset: Any, seed: int) -> bool:
    """Whether the items of a data set are other ones at each call."""
    for index in range(min(len(dataset), _PROBED)):
        drawn = []
        for number in (0, 1):
            with repeatable_draws(derive_random_key(seed, index, number)):
                drawn.append(to_view(find_images(dataset[index])[0]))
        if drawn[0].shape != drawn[1].shape or not torch.equal(drawn[0], drawn[1]):
            return True
    return False


def find_normalisation(source: Any, views: Sequence[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by which views were normalised: the transform's, else what their values say."""
    found = _normalisation_in(source)
    if found is not None:
        return found
    if all(bool(view.min() >= 0) and bool(view.max() <= 1) for view in views):
        return (0.0,) * 3, (1.0,) * 3
    return TwoViewParameters.mean, TwoViewParameters.std


def _normalisation_in(source: Any, depth: int = 0) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Of the last step with a mean and a deviation among a transform's steps, however deep."""
    mean, std = (getattr(source, name, None) for name in ("mean", "std"))
    if all(isinstance(each, Sequence | Tensor | np.ndarray) and len(each) in _CHANNELS for each in (mean, std)):
        values = [tuple(float(value) for value in each) for each in (mean, std)]  # type: ignore[union-attr]
        first, second = (value * 3 if len(value) == 1 else value for value in values)
        return first, second
    if depth > _PROBED or isinstance(source, torch.Tensor):
        return None
    steps = getattr(source, "transforms", None)
    steps = list(steps) if isinstance(steps, Sequence | nn.ModuleList) else []
    inner = (getattr(source, name, None) for name in ("parameters", "make", "transform", "dataset", "images"))
    for step in [*reversed(steps), *(each for each in inner if each is not None and not inspect.isroutine(each))]:
        found = _normalisation_in(step, depth + 1)
        if found is not None:
            return found
    return None
