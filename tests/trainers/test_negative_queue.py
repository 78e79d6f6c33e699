from collections import deque

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch.nn import functional as F

from trainers.negative_queue import NegativeQueue, gather_over_processes


def oldest_to_newest(queue: NegativeQueue) -> list[tuple[float, ...]]:
    position = int(queue.position)
    return [tuple(row.tolist()) for row in torch.cat([queue.keys[position:], queue.keys[:position]])]


@pytest.mark.parametrize(("size", "batches"), [(8, [3, 3, 3, 3]), (5, [5, 1, 4, 5]), (4, [9, 2, 13]), (1, [1, 3, 1])])
def test_queue_equals_a_deque(size, batches):
    generator = torch.Generator().manual_seed(sum(batches) + size)
    queue = NegativeQueue(size, 6)
    reference = deque(oldest_to_newest(queue), maxlen=size)
    for batch in batches:
        keys = F.normalize(torch.randn(batch, 6, generator=generator), dim=1)
        queue.enqueue(keys)
        reference.extend(tuple(row.tolist()) for row in keys)
        assert oldest_to_newest(queue) == list(reference)


def test_queue_starts_with_random_unit_vectors_and_is_all_state():
    queue = NegativeQueue(50, 16)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))
    assert queue.keys.std() > 0.1
    assert set(queue.state_dict()) == {"keys", "position"}
    assert not list(queue.parameters())


def test_a_queued_key_carries_no_gradient():
    queue = NegativeQueue(4, 3)
    keys = torch.randn(2, 3, requires_grad=True)
    queue.enqueue(keys * 2)
    assert not queue.keys.requires_grad


@pytest.mark.parametrize(("size", "dim"), [(0, 4), (-1, 4), (4, 0)])
def test_an_empty_queue_is_refused(size, dim):
    with pytest.raises(ValueError, match="at least 1"):
        NegativeQueue(size, dim)


def _enqueue_as_one_of_two(rank: int, address: str, results: object) -> None:
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.manual_seed(7)
    queue = NegativeQueue(10, 4)
    for step in range(4):
        generator = torch.Generator().manual_seed(100 * step + rank)
        queue.enqueue(F.normalize(torch.randn(3, 4, generator=generator), dim=1))
    gathered = gather_over_processes(torch.full((1,), float(rank)))
    results[rank] = (queue.keys.tolist(), int(queue.position), gathered.tolist())  # type: ignore[index]
    dist.destroy_process_group()


def test_two_processes_hold_the_same_queue_as_one_with_the_whole_batch(tmp_path):
    with multiprocessing.Manager() as manager:
        results = manager.dict()
        multiprocessing.spawn(
            _enqueue_as_one_of_two, args=(f"file://{tmp_path / 'rendezvous'}", results), nprocs=2, join=True
        )
        first, second = results[0], results[1]
    assert first == second
    assert first[2] == [0.0, 1.0]
    torch.manual_seed(7)
    single = NegativeQueue(10, 4)
    for step in range(4):
        parts = [torch.randn(3, 4, generator=torch.Generator().manual_seed(100 * step + rank)) for rank in (0, 1)]
        single.enqueue(F.normalize(torch.cat(parts), dim=1))
    assert single.keys.tolist() == first[0]
    assert int(single.position) == first[1]
