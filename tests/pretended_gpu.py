"""A CUDA device that is not there: its tensors have shape, type and device but no values.

What runs on it is the code that a GPU runs: a tensor left on the CPU is refused in an operation, and so is waiting for
a value (`item`, `nonzero`, a branch on a tensor). It has no automatic differentiation and no kernels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

Placed = TypeVar("Placed", Tensor, nn.Module)


class PretendedGPU:
    """What `pretended_gpu` yields: `put` is `.cuda()` of a tensor or, in place, of a module."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode

    def put(self, what: Placed) -> Placed:
        if isinstance(what, nn.Module):
            return what._apply(self._put)
        return self._put(what)

    def _put(self, tensor: Tensor) -> Tensor:
        return torch.empty_like(self._mode.from_tensor(tensor), device="cuda")


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    replaces = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with FakeTensorMode() as mode:
            yield PretendedGPU(mode)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(replaces)
