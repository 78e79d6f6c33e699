"""The order of the images in each epoch."""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from synco_hub.data.random_keys import random_key


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs: every index once, in an order that depends on seed and epoch alone.

    The epoch travels with each index because a worker process that lives through several epochs keeps its own copy of
    the data set and never hears of a new one; augmentation needs it.

    Args:
        num_images: Length of the data set.
        seed: Another seed gives other orders.
        shuffle: False keeps the order of the data set in every epoch.

    Raises:
        ValueError: If the data set is empty.
    """

    def __init__(self, num_images: int, seed: int = 0, shuffle: bool = True) -> None:
        if num_images < 1:
            raise ValueError(f"{num_images} images: there is nothing to train on; give a data set with images.")
        self.num_images = num_images
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration; loaders of `accelerate` call it before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        order = torch.arange(self.num_images)
        if self.shuffle:
            generator = torch.Generator().manual_seed(random_key(self.seed, epoch) >> 1)
            order = torch.randperm(self.num_images, generator=generator)
        for index in order.tolist():
            yield epoch, index

    def __len__(self) -> int:
        return self.num_images
