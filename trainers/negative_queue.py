"""The memory bank Q: the newest keys, first in, first out (paper section 7.4, queue size K = 4096)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


class NegativeQueue(nn.Module):
    """A ring of the newest keys; content and position are buffers, so a checkpoint holds them.

    It starts with random unit vectors, which are uninformative negatives until they are replaced.
    """

    keys: Tensor  # (size, dim)
    position: Tensor  # (), where the next key goes

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        if size < 1 or dim < 1:
            raise ValueError(f"A queue of {size} keys of dimension {dim} is empty: both must be at least 1.")
        self.register_buffer("keys", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put the keys of this step, of every process, in the place of the oldest.

        Processes contribute in the order of their rank, so every rank's queue stays the same bit for bit. A batch
        larger than the queue leaves its last `size` keys. The position stays on the device: no synchronisation.

        Args:
            keys: Unit vectors. Shape: (batch, dim), the same batch on every process.
        """
        keys = gather_over_processes(keys.detach()).to(self.keys.dtype)
        size, count = self.keys.shape[0], keys.shape[0]
        kept = keys[-size:]
        first = self.position + (count - kept.shape[0])
        slots = (first + torch.arange(kept.shape[0], device=keys.device)) % size
        self.keys.index_copy_(0, slots, kept)
        self.position.copy_((self.position + count) % size)


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Concatenate a tensor over all processes in the order of their rank; without processes, the tensor itself.

    Args:
        tensor: Shape: (batch, ...), the same shape on every process.

    Returns:
        Shape: (processes * batch, ...).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    tensor = tensor.contiguous()
    gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, tensor)
    return torch.cat(gathered)
