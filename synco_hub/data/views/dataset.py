"""Pairs of views for pretraining: what a loader reads and how it makes a batch."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset, default_collate

from synco_hub.data.image_dataset import ImageDataset
from synco_hub.data.pretraining_images import FingerprintRecorder
from synco_hub.data.samplers import derive_random_key
from synco_hub.data.unreadable_images import GOOD, load_readable
from synco_hub.data.views.device_views import CroppedView
from synco_hub.data.views.own_data import (
    OwnImages,
    OwnTransform,
    draws_views,
    find_images,
    find_normalisation,
    is_finished,
    probe_items,
    repeatable_draws,
    takes_key,
)
from synco_hub.data.views.parameters import TwoViewParameters

View = torch.Tensor | CroppedView
# Turns the pixels of an image, (height, width, 3), and the key of its sample into two views.
_BESIDE = ("draw_1", "draw_2", "local_views", "local_draws", "bad_index")
PixelTransform = Callable[[npt.NDArray[np.uint8], int], tuple[View, ...]]


class ViewPair(TypedDict):
    """Two views of one image.

    Keys: view_1 and view_2 of shape (3, height, width), or cropped and still to be distorted on the device;
    local_views, the small ones where there are any, alike, of shape (local_crops, 3, local_size, local_size); index,
    the position in the data set; bad_index, -1 or the position of the unreadable image in whose place another one was
    taken.
    """

    view_1: View
    view_2: View
    local_views: NotRequired[View]
    index: int
    bad_index: int


class TwoViewDataset(Dataset[ViewPair]):
    """Map-style data set of view pairs, indexed by (epoch, index).

    The views of an image differ from epoch to epoch and depend on nothing but (seed, epoch, index): not on the number
    of worker processes, not on what was drawn before, not on whether the run was resumed. What other data sets and
    transforms draw from the global generators of torch, numpy and Python is seeded alike; what they draw from
    generators of their own is not.

    Args:
        images: The images; labels are not used. Also a data set of torch, torchvision or `datasets`, which is asked
            by whole numbers and whose items hold one image.
        transform: Makes the two views of an image's pixels, `TwoViewTransform` for one. Also a function of the image
            alone, as torchvision's: it gives one view and is called twice, or two.
        seed: Another seed draws other views.

    Attributes:
        recorder: Notes the images that are loaded, see `synco_hub.data.pretraining_images`; None for nobody.
    """

    recorder: FingerprintRecorder | None = None

    def __init__(self, images: Any, transform: Callable[..., Any], seed: int = 0) -> None:
        self.images = images if isinstance(images, ImageDataset) else OwnImages(images)
        self.transform: Any = transform if takes_key(transform) else OwnTransform(transform)
        self.seed = seed
        pictures = self.images.load if isinstance(self.images, OwnImages) else self.images.load_image
        self._load: Callable[[int], Any] = (
            pictures if isinstance(self.transform, OwnTransform) else self.images.load_pixels
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> ViewPair:
        epoch, index = _take_apart(key)
        key_of_sample = derive_random_key(self.seed, epoch, index)
        # Our own images draw nothing.
        with repeatable_draws(key_of_sample) if isinstance(self.images, OwnImages) else nullcontext():
            image, bad_index = load_readable(self._load, len(self), index, self.seed)
        if self.recorder is not None and bad_index == GOOD:
            self.recorder.note(epoch, index, image)
        made = self.transform(image, key_of_sample)
        has_local = count_local_views(self) > 0
        local = made[2] if has_local else None
        view_1, view_2 = two_views(made[:2] if has_local else made)
        pair = ViewPair(view_1=view_1, view_2=view_2, index=index, bad_index=bad_index)
        return pair if local is None else {**pair, "local_views": local}

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.images.name(index)


def count_local_views(views: Any) -> int:
    """How many small views of an image the transform of a data set of views makes beside the two."""
    parameters = getattr(getattr(views, "transform", None), "parameters", None)
    return parameters.local_crops if isinstance(parameters, TwoViewParameters) else 0


def _take_apart(key: Any) -> tuple[int, int]:
    """Epoch and index; without an epoch each would see the same views."""
    if isinstance(key, tuple) and len(key) == 2:
        return key
    raise TypeError(
        f"View pairs are asked by (epoch, index), since each epoch has other views, not by {key!r}: views[0, 5] are "
        "those of image 5 in epoch 0; give a DataLoader sampler=EpochSampler(len(views)) of synco_hub.data and "
        "collate_fn=TwoViewCollator()."
    )


def two_views(made: Any) -> tuple[View, View]:
    """The two views that a transform gave; a third would be dropped."""
    number = 1 if isinstance(made, torch.Tensor) and made.ndim == 3 else len(made)
    if number != 2:
        raise ValueError(f"The transform gives {number} views of an image: training compares two, so give two.")
    return made[0], made[1]


class OwnViews(Dataset[ViewPair]):
    """View pairs of a data set that makes views itself: two an item, or one, and then it is asked twice."""

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset = OwnImages(dataset)
        self.transform = OwnTransform(self.dataset.load_item)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> ViewPair:
        epoch, index = _take_apart(key)

        def load(position: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self.transform(position, derive_random_key(self.seed, epoch, position))

        (view_1, view_2), bad_index = load_readable(load, len(self), index, self.seed)
        return ViewPair(view_1=view_1, view_2=view_2, index=index, bad_index=bad_index)

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.dataset.name(index)


class OwnItems(Dataset[Any]):
    """The items of a data set as they are, with their keys, for somebody's own collator."""

    def __init__(self, dataset: Any, seed: int = 0) -> None:
        self.dataset = OwnImages(dataset)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, Any]:
        epoch, index = _take_apart(key)
        key_of_sample = derive_random_key(self.seed, epoch, index)
        with repeatable_draws(key_of_sample):
            return key_of_sample, self.dataset.dataset[index]

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.dataset.name(index)


class OwnCollator:
    """Somebody's own collator of `OwnItems`, its draws seeded by the samples of the batch."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[tuple[int, Any]]) -> Any:
        """Collate the items."""
        with repeatable_draws(derive_random_key(*(key for key, _ in samples))):
            return read_batch(self.collate([item for _, item in samples]))


def read_batch(batch: Any) -> dict[str, torch.Tensor]:
    """The views of a collated batch, and what `TwoViewCollator` puts beside them.

    Raises:
        ValueError: If it does not hold two views.
    """
    if isinstance(batch, Mapping):
        kept = {name: batch[name] for name in ("view_1", "view_2", *_BESIDE) if name in batch}
        if {"view_1", "view_2"} <= set(kept) and "view_3" not in batch:
            return kept
        found = ", ".join(map(str, batch)) or "nothing"
    else:
        views = batch[0] if isinstance(batch, tuple | list) and batch and not torch.is_tensor(batch[0]) else batch
        stacked = [view for view in views if torch.is_tensor(view) and view.ndim == 4]
        if len(stacked) == 2:
            return {"view_1": stacked[0], "view_2": stacked[1]}
        found = f"{len(stacked)} tensors of images"
    raise ValueError(
        f"The collator gives {found}: give view_1 and view_2, each of shape (batch, 3, height, width), or a tuple of "
        "the two."
    )


def open_view_pairs(dataset: Any, transform: PixelTransform, seed: int = 0) -> Any:
    """Any map-style data set as view pairs that are indexed by (epoch, index).

    Args:
        dataset: A `TwoViewDataset`, images of the package, or a data set of torch, torchvision or `datasets`.
        transform: For items that are images; one that makes views itself keeps them.
        seed: Another seed draws other views.

    Raises:
        ValueError: If it is no such data set, or its items are neither images nor views, saying what to give.
    """
    if isinstance(dataset, TwoViewDataset | OwnViews):
        return dataset
    if isinstance(dataset, ImageDataset):
        return TwoViewDataset(dataset, transform, seed)
    item = probe_items(dataset, seed)
    if item is None:
        return dataset
    images = find_images(item)
    if len(images) == 2:
        return OwnViews(dataset, seed)
    if not is_finished(images[0]):
        return TwoViewDataset(dataset, transform, seed)
    if draws_views(dataset, seed):
        return OwnViews(dataset, seed)
    low, high = float(images[0].min()), float(images[0].max())
    if low < 0 or high > 1:
        raise ValueError(
            f"The data set gives the same normalised tensor of an image ({low:.2g} to {high:.2g}) each time: leave "
            "out the normalisation, so that views are made of it here, or let it draw views of its own."
        )
    return TwoViewDataset(dataset, transform, seed)


class TwoViewCollator:
    """Stacks view pairs to a batch.

    Finished views become view_1 and view_2 of shape (batch, 3, height, width), float32. Cropped ones become view_1 and
    view_2 of shape (batch, height, width, 3), uint8, with draw_1 and draw_2 of shape (batch, len(DRAW_ROW)) for
    `DeviceViews`. Small ones become local_views and local_draws, with the number of them as second dimension.
    bad_index is (batch,) int64.
    """

    def __call__(self, pairs: Sequence[ViewPair]) -> dict[str, torch.Tensor]:
        """Stacks; the indices of good images stay behind, because a model's forward would not take them."""
        if "view_1" not in pairs[0] or "view_2" not in pairs[0]:
            raise ValueError(f"A sample holds {', '.join(pairs[0]) or 'nothing'}: it needs view_1 and view_2.")
        local = [pair["local_views"] for pair in pairs if "local_views" in pair]
        return {
            **_stacked("1", [pair["view_1"] for pair in pairs]),
            **_stacked("2", [pair["view_2"] for pair in pairs]),
            **(_stack_local(local) if local else {}),
            "bad_index": torch.tensor([pair.get("bad_index", GOOD) for pair in pairs], dtype=torch.int64),
        }


def _stack_local(views: Sequence[View]) -> dict[str, torch.Tensor]:
    finished = [view for view in views if isinstance(view, torch.Tensor)]
    if finished:
        return {"local_views": default_collate(finished)}
    cropped = [view for view in views if isinstance(view, CroppedView)]
    return {
        "local_views": default_collate([view.crop for view in cropped]),
        "local_draws": default_collate([view.draw for view in cropped]),
    }


def _stacked(number: str, views: Sequence[View]) -> dict[str, torch.Tensor]:
    # torch's own stacks in a worker into memory that the main process shares, which saves a copy.
    cropped = [view for view in views if isinstance(view, CroppedView)]
    if not cropped:
        finished = [view for view in views if isinstance(view, torch.Tensor)]
        _refuse_several_sizes(number, finished)
        return {f"view_{number}": default_collate(finished)}
    return {
        f"view_{number}": default_collate([view.crop for view in cropped]),
        f"draw_{number}": default_collate([view.draw for view in cropped]),
    }


def _refuse_several_sizes(number: str, views: Sequence[torch.Tensor]) -> None:
    sizes = {tuple(view.shape) for view in views}
    if len(sizes) > 1:
        raise ValueError(
            f"View {number} has several sizes in one batch ({', '.join(map(str, sorted(sizes)))}): let the "
            "transform end with one, as by torchvision's Resize((height, width))."
        )


def join_batches(batches: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One batch of several that `TwoViewCollator` has made."""
    for number in ("1", "2"):
        _refuse_several_sizes(number, [batch[f"view_{number}"][0] for batch in batches])
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def is_own_data(dataset: Any, seed: int = 0) -> bool:
    """Whether a data set is asked by whole numbers, so that its items are somebody's own."""
    return not isinstance(dataset, TwoViewDataset | OwnViews) and probe_items(dataset, seed) is not None


def describe_views(
    pairs: Any, collate: Callable[[list[Any]], Any], image_size: int
) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Side, mean and standard deviation of the views that training is going to see.

    Raises:
        ValueError: If own views are not of the network's size.
    """
    transform = getattr(pairs, "transform", None)
    parameters = getattr(transform, "parameters", None)
    if isinstance(parameters, TwoViewParameters):
        return int(getattr(transform, "image_size", image_size)), parameters.mean, parameters.std
    if not isinstance(pairs, TwoViewDataset | OwnViews | OwnItems):
        return image_size, TwoViewParameters.mean, TwoViewParameters.std
    with repeatable_draws(0):
        batch = read_batch(collate([pairs[0, index] for index in range(min(len(pairs), 2))]))
    views = [batch["view_1"], batch["view_2"]]
    is_own = isinstance(pairs, OwnViews | OwnItems) or isinstance(transform, OwnTransform)
    shapes = {tuple(view.shape[1:]) for view in views}
    if is_own and shapes != {(3, image_size, image_size)}:
        found = ", ".join("x".join(map(str, shape)) for shape in sorted(shapes))
        raise ValueError(
            f"The views are {found}, and the network takes 3x{image_size}x{image_size}: let their transform end with "
            f"torchvision's Resize(({image_size}, {image_size})), or make the network for their size (image_size)."
        )
    mean, std = find_normalisation(collate if isinstance(pairs, OwnItems) else pairs, views)
    return int(views[0].shape[-1]), mean, std
