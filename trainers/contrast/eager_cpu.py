"""Where a loss may leave torch for a moment: on a CPU, outside a compiler's trace.

There a tensor's memory is at hand for libraries that do one step faster. An accelerator would have to wait for its own
results first, and a trace cannot contain the step.
"""

import torch
from torch import Tensor


def computes_eagerly_on_cpu(tensor: Tensor) -> bool:
    """Whether an operation on this tensor is carried out now, by the CPU.

    Args:
        tensor: Of any shape.
    """
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
