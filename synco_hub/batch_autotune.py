"""The fastest batch size of a forward pass, found by doubling while it pays and memory lasts.

Throughput grows with the batch until the device is full and is flat from there, so doubling finds the place where it
bends. Larger batches than that only cost memory. What is tried takes at most a quarter of the time of one pass over
the data.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SMALLEST = 8
LARGEST = 4096
# A larger batch has to bring this much, because it costs memory; less is also what timing cannot tell from chance.
MARGIN = 1.05
# One doubling without a gain may be chance, two are the flat part.
PATIENCE = 2
REPEATS = 3
# With a warm-up and REPEATS passes, sizes up to a 32nd of the data sum to at most a quarter of it.
_SHARE_OF_DATA = 32
# Memory of a forward pass over that of its pixels: 12 for DeiT-S, 25 for ResNet-50 and ViT-L, 40 for Swin-T on a CPU.
_ACTIVATIONS = 64
_PREFETCHED = 2


@dataclass(frozen=True)
class BatchChoice:
    """What was tried and chosen.

    Attributes:
        batch_size: The smallest batch whose throughput the larger ones do not exceed by 5 % or more.
        images_per_second: Throughput by batch size, as tried.
    """

    batch_size: int
    images_per_second: dict[int, float]

    def __str__(self) -> str:
        tried = ", ".join(f"{size}: {rate:.4g}" for size, rate in self.images_per_second.items())
        return f"{self.batch_size}, found by autotuning (images/s by batch size: {tried})"


def autotuned_batch_size(
    forward: Callable[[Tensor], object], pixels: Tensor, num_images: int, num_workers: int, device: torch.device
) -> BatchChoice | None:
    """Time a forward pass on one image, repeated, and choose.

    Args:
        forward: What is to be fast, on pixels of the shape (batch, channels, height, width).
        pixels: One prepared image. Shape: (channels, height, width).
        num_images: Size of the data set.
        num_workers: Processes that decode images.
        device: Where the forward pass runs.

    Returns:
        The choice; None if the data set is too small for it, or memory for 8 images.

    Raises:
        torch.OutOfMemoryError: If a GPU has no memory for 8 images.
    """

    def run(size: int) -> None:
        forward(pixels.expand(size, *pixels.shape).contiguous())
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    image_bytes = pixels.numel() * pixels.element_size()
    choice = fastest_batch_size(run, largest_worth_trying(num_images, image_bytes, num_workers, device))
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what larger batches than the chosen one took
    return choice


def fastest_batch_size(
    run: Callable[[int], object], largest: int, clock: Callable[[], float] = time.perf_counter
) -> BatchChoice | None:
    """Double the batch from 8 until two doublings in a row bring less than 5 %, or memory is out.

    Args:
        run: One forward pass of so many images, finished when it returns. Out of memory it raises
            `torch.OutOfMemoryError`.
        largest: No larger batch is tried.
        clock: Seconds.

    Returns:
        The choice, from medians of three passes each; None if ``largest`` is below 8.

    Raises:
        torch.OutOfMemoryError: If not even 8 images fit.
    """
    tried: dict[int, float] = {}
    best, flat, size = SMALLEST, 0, SMALLEST
    while size <= min(largest, LARGEST) and flat < PATIENCE:
        try:
            tried[size] = _images_per_second(run, size, clock)
        except torch.OutOfMemoryError:
            if not tried:
                raise
            logger.info("batch size %d does not fit into memory", size)
            break
        if size == SMALLEST or tried[size] >= MARGIN * tried[best]:
            best, flat = size, 0
        else:
            flat += 1
        size *= 2
    return BatchChoice(best, tried) if tried else None


def largest_worth_trying(num_images: int, image_bytes: int, num_workers: int, device: torch.device) -> int:
    """The batch size that the data and half of the free memory allow.

    Args:
        num_images: Size of the data set.
        image_bytes: Bytes of the pixels of one prepared image.
        num_workers: Processes that decode images, each some batches ahead.
        device: Where the forward pass runs; on a CPU its activations count, a GPU says itself when it is full.

    Returns:
        Below 8 where nothing is worth trying.
    """
    batches_held = _PREFETCHED * num_workers + 2 + (_ACTIVATIONS if device.type == "cpu" else 0)
    affordable = psutil.virtual_memory().available // 2 // (image_bytes * batches_held)
    return int(min(num_images // _SHARE_OF_DATA, affordable))


def _images_per_second(run: Callable[[int], object], size: int, clock: Callable[[], float]) -> float:
    run(size)  # the first pass of a shape also chooses algorithms and allocates
    seconds = []
    for _ in range(REPEATS):
        started = clock()
        run(size)
        seconds.append(clock() - started)
    return size / max(statistics.median(seconds), 1e-9)
