"""Frozen features by several processes: each takes a part of the images on its own device, the parts are put together.

Processes are started afresh (`spawn`), so they never inherit a GPU context; weights and features travel through shared
memory. The result is that of one process: image by image the arithmetic is the same, only batches end elsewhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from synco_hub.data import BadImageLedger
from synco_hub.feature_adapter import FeatureRule
from synco_hub.features import ExtractionSettings, Features, NamedItems, extract_features


@dataclass(frozen=True)
class DatasetPart:
    """The images from ``start`` to ``stop`` of a data set."""

    dataset: NamedItems
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Any:
        item = dict(self.dataset[self.start + index])
        # A data set says by its own position which image it could not read; here positions begin at `start`.
        item["bad_index"] = index if item["bad_index"] >= 0 else -1
        return item

    def name(self, index: int) -> str:
        """How reports name one image."""
        return self.dataset.name(self.start + index)


def parts(count: int, num_processes: int) -> list[tuple[int, int]]:
    """Start and stop of each process's share: in order, none empty, sizes differing by one at most.

    Args:
        count: Items to share out, at least 1.
        num_processes: Processes, at least 1; no more than items are used.
    """
    used = min(num_processes, count)
    bounds = [count * number // used for number in range(used + 1)]
    return list(itertools.pairwise(bounds))


def devices_of(device: torch.device | str | None, num_processes: int) -> list[str]:
    """The device of each process: one GPU each where ``device`` is `cuda`, else the device itself.

    Raises:
        ValueError: If there are fewer GPUs than processes.
    """
    if str(device) != "cuda":
        return [str(device or "cpu")] * num_processes
    if num_processes > torch.cuda.device_count():
        raise ValueError(
            f"--num-processes {num_processes} with {torch.cuda.device_count()} GPUs: one process a GPU is useful; "
            "give at most their number"
        )
    return [f"cuda:{number}" for number in range(num_processes)]


@contextmanager
def fresh_processes(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes share the cores among them."""
    threads = max(torch.get_num_threads() // num_processes, 1)
    context = torch.multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        num_processes, mp_context=context, initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        yield pool


def extract_features_in_processes(
    model: nn.Module,
    dataset: NamedItems,
    settings: ExtractionSettings,
    rule: FeatureRule | None = None,
    title: str = "features",
    extract: Callable[..., Features] = extract_features,
) -> Features:
    """As :func:`synco_hub.features.extract_features`, by several processes.

    Args:
        model: Any model that :mod:`synco_hub.feature_adapter` knows.
        dataset: Images, labels and names; every process reads its own share.
        settings: Of each process; batch size and workers are per process. One process is this one.
        rule: Which feature; None for the model's own rule.
        title: What the progress bar of the first process says.
        extract: What each process runs.

    Raises:
        ValueError: As :func:`synco_hub.features.extract_features`, or if there are fewer GPUs than processes.
    """
    count = len(dataset)
    if settings.num_processes == 1 or count < 2:
        return extract(model, dataset, settings, rule, title)
    shares = parts(count, settings.num_processes)
    devices = devices_of(settings.device, len(shares))
    # Unreadable images may lie together in one share: the whole decides, below.
    of_each = replace(settings, max_bad_fraction=1.0)
    with fresh_processes(len(shares)) as pool:
        running = [
            pool.submit(
                extract,
                model,
                DatasetPart(dataset, start, stop),
                replace(of_each, device=device, progress=settings.progress and number == 0),
                rule,
                f"{title}, process 1 of {len(shares)}",
            )
            for number, ((start, stop), device) in enumerate(zip(shares, devices, strict=True))
        ]
        found = [each.result() for each in running]
    together = joined(found, [start for start, _ in shares])
    ledger = BadImageLedger(dataset, settings.max_bad_fraction)
    ledger.record(together.skipped)
    return together


def joined(found: Sequence[Features], starts: Sequence[int]) -> Features:
    """Features of consecutive shares as those of the whole.

    Args:
        found: One for each share, in order.
        starts: Position in the whole of each share's first image.
    """
    return Features(
        values=torch.cat([each.values for each in found]),
        labels=torch.cat([each.labels for each in found]),
        indices=torch.cat([each.indices + start for each, start in zip(found, starts, strict=True)]),
        skipped=torch.cat([each.skipped + start for each, start in zip(found, starts, strict=True)]),
        facts=found[0].facts,
    )
