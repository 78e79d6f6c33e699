"""The order of the images in each epoch, and the random numbers that depend on seed, epoch and index alone.

Nothing draws from a global generator: which image a worker process sees next depends on the number of workers, and a
run that is resumed would draw other numbers. Here every image of every epoch owns a 64-bit key, and its uniforms are
read from the counter-based SplitMix64 sequence of that key. The numbers are the same on every platform and in every
library version, for one sample and for a batch of samples.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Sampler

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix64(value: int) -> int:
    """Scatters the 64-bit integers over themselves, one to one; of a larger one the lowest 64 bits count.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
    2014, variant 13 of Stafford's mixers).
    """
    value &= _MASK
    value = ((value ^ (value >> 30)) * _MULTIPLIERS[0]) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLIERS[1]) & _MASK
    return value ^ (value >> 31)


def derive_random_key(*parts: int) -> int:
    """Mixes integers, such as (seed, epoch, index), into one of [0, 2^64); their order and their number matter."""
    key = len(parts)
    for part in parts:
        key = mix64(key + _GOLDEN_GAMMA + mix64(part + _GOLDEN_GAMMA))
    return key


def draw_uniforms(keys: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.float64]:
    """Independent uniforms in [0, 1) of each key, as multiples of 2^-53; a longer row starts with the shorter one.

    Shape: (batch, count).
    """
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA)
    state = keys[:, None] + steps  # (batch, count), modulo 2^64
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_MULTIPLIERS[0])
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_MULTIPLIERS[1])
    state ^= state >> np.uint64(31)
    numbers: npt.NDArray[np.float64] = (state >> np.uint64(11)) * 2.0**-53
    return numbers


def sample_uniforms(key: int, count: int) -> list[float]:
    """The row of `uniforms` for one key, as Python numbers."""
    return [float(value) for value in draw_uniforms(np.array([key], dtype=np.uint64), count)[0]]


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
            generator = torch.Generator().manual_seed(derive_random_key(self.seed, epoch) >> 1)
            order = torch.randperm(self.num_images, generator=generator)
        for index in order.tolist():
            yield epoch, index

    def __len__(self) -> int:
        return self.num_images
