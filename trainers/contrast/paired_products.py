"""Dot products of chosen pairs of vectors, out of all pairs of two sets: a sampled matrix product.

On a CPU the pairs become the pattern of a sparse matrix, whose product fills in nothing else and copies no vector. An
accelerator, and a compiler's trace, gathers the vectors a chunk at a time: sparse products were measured on CPUs only.
"""

import warnings

import torch
from torch import Tensor, nn

from trainers.contrast.synthetic_draws import query_chunks

# torch 2.15 and before says once a process that such tensors are in beta; here every entry is tested against a loop.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1), dtype=torch.float32, device="cpu", check_invariants=False)


def products_with_rows(left: Tensor, right: Tensor, index: Tensor) -> Tensor:
    """Each vector's dot products with the rows chosen for it: ⟨left[i], right[index[i, j]]⟩.

    Args:
        left: Shape: (num, dim).
        right: Same dtype and device. Shape: (rows, dim).
        index: Rows of `right`, repetitions allowed. Shape: (num, count).

    Returns:
        Shape: (num, count).
    """
    num, count = index.shape
    if _can_be_sampled(left, index, len(right)):
        starts = torch.arange(0, num * count + 1, count, device=left.device)
        return _sampled_product(left, right, starts, index.flatten()).view(num, count)
    chunks = query_chunks(left, count)
    return torch.cat([similarity_to(left[chunk], right[index[chunk]]) for chunk in chunks])


def products_of_pairs(vectors: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Dot products of pairs out of one set: ⟨vectors[first[i, j]], vectors[second[i, j]]⟩.

    Args:
        vectors: Shape: (rows, dim).
        first: Rows, repetitions allowed. Shape: (num, count).
        second: Shape: (num, count).

    Returns:
        Shape: (num, count).
    """
    if _can_be_sampled(vectors, first, len(vectors)):
        order = torch.from_numpy(first.flatten().numpy().argsort())  # a third of torch's time
        starts = torch.bincount(first.flatten(), minlength=len(vectors)).cumsum(0)
        starts = torch.cat([starts.new_zeros(1), starts])
        in_order = _sampled_product(vectors, vectors, starts, second.flatten().gather(0, order))
        return torch.empty_like(in_order).scatter_(0, order, in_order).view_as(first)
    chunks = query_chunks(vectors[:1].expand(len(first), -1), first.shape[1])
    return torch.cat([(vectors[first[chunk]] * vectors[second[chunk]]).sum(dim=-1) for chunk in chunks])


def similarity_to(left: Tensor, vectors: Tensor) -> Tensor:
    """Returns ⟨left, vector⟩ for left (queries, dim) and vectors (queries, count, dim). Shape: (queries, count)."""
    # On CPU a row times a transposed matrix runs seven times faster than the matrix times a column.
    return torch.bmm(left.unsqueeze(1), vectors.mT).squeeze(1)


def computes_eagerly_on_cpu(tensor: Tensor) -> bool:
    """Whether an operation on this tensor is carried out now, by the CPU, on memory that other libraries can read.

    An accelerator would have to wait for its own results, a trace cannot contain the step, and neither fake tensors
    nor the wrapped ones of `torch.func` have memory of their own.
    """
    if torch.compiler.is_compiling() or tensor.device.type != "cpu":
        return False
    # The wrapped tensors of torch.func are of the plain type.
    return type(tensor) in (Tensor, nn.Parameter) and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _can_be_sampled(left: Tensor, index: Tensor, columns: int) -> bool:
    # A pattern with repeated entries is taken as long as a matrix without any could have as many.
    return computes_eagerly_on_cpu(left) and index.numel() <= len(left) * columns


def _sampled_product(left: Tensor, right: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """Entries of left @ right.mT where a pattern in compressed rows has one. Shape: that of the columns."""
    nothing, shape = left.new_zeros(len(columns)), (len(left), len(right))
    pattern = torch.sparse_csr_tensor(starts, columns, nothing, shape, device=left.device, check_invariants=False)
    return torch.sparse.sampled_addmm(pattern, left, right.mT, beta=0.0).values()
