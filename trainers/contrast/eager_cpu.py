"""Where a loss may leave torch for a moment: on a CPU, outside a compiler's trace and `torch.func`.

There a tensor's memory is at hand for libraries that do one step faster. An accelerator would have to wait for its own
results first, a trace cannot contain the step, and the wrapped tensors of `torch.func` have no memory of their own.
"""

import torch
from torch import Tensor


def computes_eagerly_on_cpu(tensor: Tensor) -> bool:
    """Whether an operation on this tensor is carried out now, by the CPU, on memory that others can read.

    Args:
        tensor: Of any shape.
    """
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling() and not wrapped(tensor)
