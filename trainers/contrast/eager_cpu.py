"""Where a loss may leave torch for a moment: on a CPU, outside traces and `torch.func`.

There a tensor's memory is at hand for libraries that do one step faster. An accelerator would have to wait for its own
results first, a trace cannot contain the step, and the wrapped tensors of `torch.func` have no memory of their own.
"""

import torch
from torch import Tensor, nn


def computes_eagerly_on_cpu(tensor: Tensor) -> bool:
    """Whether an operation on this tensor is carried out now, by the CPU, on memory that others can read.

    Args:
        tensor: Of any shape.
    """
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    # Fake and other derived tensors compute elsewhere; the wrapped ones of torch.func are of the plain type.
    plain = type(tensor) in (Tensor, nn.Parameter)
    return plain and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
