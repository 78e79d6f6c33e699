"""Nearest neighbours by several processes: every process holds the whole bank and takes a share of the queries."""

from __future__ import annotations

import torch
from torch import Tensor

from synco_hub.evaluation.neighbours.nearest_neighbours import Neighbours, nearest_neighbours
from synco_hub.evaluation.neighbours.neighbour_precision import SearchPrecision
from synco_hub.feature_processes import devices_of, fresh_processes, parts


def nearest_neighbours_in_processes(
    bank: Tensor,
    queries: Tensor,
    k: int,
    num_processes: int,
    device: torch.device | str = "cpu",
    progress: bool = False,
    precision: SearchPrecision = "fp32",
) -> Neighbours:
    """As :func:`synco_hub.evaluation.neighbours.nearest_neighbours.nearest_neighbours`, bit for bit on a CPU.

    Args:
        bank: Features; the processes share one copy in memory. Shape: (bank, dim).
        queries: Features. Shape: (queries, dim).
        k: Number of neighbours, from 1 to the size of the bank.
        num_processes: 1 searches in this process.
        device: `cuda` gives each process a GPU of its own.
        progress: Show the progress of the first process.
        precision: As of the search by one process.

    Raises:
        ValueError: As the search by one process, or if there are fewer GPUs than processes.
    """
    if num_processes == 1 or len(queries) < 2:
        return nearest_neighbours(bank, queries, k, device, progress=progress, precision=precision)
    shares = parts(len(queries), num_processes)
    with fresh_processes(len(shares)) as pool:
        running = [
            pool.submit(
                nearest_neighbours, bank, queries[start:stop], k, own, None, progress and number == 0, precision
            )
            for number, ((start, stop), own) in enumerate(zip(shares, devices_of(device, len(shares)), strict=True))
        ]
        found = [each.result() for each in running]
    return Neighbours(
        similarities=torch.cat([each.similarities for each in found]),
        indices=torch.cat([each.indices for each in found]),
    )
