"""A CPU's tensors qualify, an accelerator's and those of a trace do not."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from trainers.contrast.eager_cpu import computes_eagerly_on_cpu


def test_a_tensor_on_a_cpu_does() -> None:
    assert computes_eagerly_on_cpu(torch.empty(2))


def test_a_tensor_elsewhere_does_not() -> None:
    assert not computes_eagerly_on_cpu(torch.empty(2, device="meta"))


def test_one_without_values_does_not() -> None:
    with FakeTensorMode():
        assert not computes_eagerly_on_cpu(torch.empty(2))


def test_nor_does_one_in_a_compiler_s_trace() -> None:
    def answer(tensor: torch.Tensor) -> torch.Tensor:
        return tensor + (1 if computes_eagerly_on_cpu(tensor) else 2)

    torch._dynamo.reset()
    assert torch.compile(answer, backend="eager", fullgraph=True)(torch.zeros(1)).item() == 2
    assert answer(torch.zeros(1)).item() == 1


def test_nor_does_a_wrapped_one_of_torch_func() -> None:
    seen = []

    def loss(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(computes_eagerly_on_cpu(tensor.detach()))
        return tensor.sum()

    torch.func.grad(loss)(torch.ones(3))
    assert seen == [False]
