"""The numbers have their law, know no other source than the generator, and come from AES as its standard says."""

import math

import pytest
import torch
from scipy import special, stats

from trainers.contrast import random_numbers
from trainers.contrast.random_numbers import RandomNumbers


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    memory = torch.empty(shape, dtype=dtype)
    return RandomNumbers(memory, generator(seed)).normal_(memory)


def words(seed: int, count: int) -> torch.Tensor:
    """The keystream read off the choices among 2³¹: its upper 31 bits."""
    return RandomNumbers(torch.empty(0), generator(seed)).choices(2**31, (count,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normal_numbers_are_standard_normal(dtype: torch.dtype) -> None:
    numbers = drawn(0, 3, 1_000_003, dtype=dtype).double().flatten()
    assert stats.kstest(numbers[::7].numpy(), stats.norm.cdf).pvalue > 1e-3
    count = len(numbers)
    # E x, E x², E x³, E x⁴ of the standard normal law, each within four of its standard errors.
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs((numbers**power).mean().item() - moment) < 4 * math.sqrt(variance / count)
    tail = (numbers.abs() > 4).sum().item()
    assert stats.binomtest(tail, count, 2 * stats.norm.sf(4)).pvalue > 1e-3


def test_neighbours_and_distant_numbers_are_independent() -> None:
    numbers = drawn(1, 2**20).double()
    for shift in (1, 2, 4, 256, random_numbers.WORDS, 2**19):
        for first, second in [(numbers, numbers), (numbers.square(), numbers.square())]:
            first, second = first[:-shift] - first.mean(), second[shift:] - second.mean()
            correlation = (first * second).mean() / (first.std() * second.std())
            assert abs(correlation.item()) < 4.5 / math.sqrt(len(first))


def test_the_largest_and_the_smallest_word_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = torch.tensor([2**31 - 1, -(2**31), 0, 2**31 - 64], dtype=torch.int32)
    monkeypatch.setattr(RandomNumbers, "_words_for", lambda self, memory: iter([(memory, extremes)]))
    numbers = RandomNumbers(torch.empty(0), generator(2)).normal_(torch.empty(4))
    expected = special.ndtri([1 - 2**-25, 2**-25, 0.5, 1 - 2**-25])
    torch.testing.assert_close(numbers.double(), torch.tensor(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("num", [1, 7, 256, 1000])
def test_choices_are_uniform(num: int) -> None:
    chosen = RandomNumbers(torch.empty(0), generator(3)).choices(num, (500, 400))
    assert chosen.shape == (500, 400)
    assert chosen.dtype == torch.int64
    counts = torch.bincount(chosen.flatten(), minlength=num)
    assert len(counts) == num
    assert num == 1 or stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_the_words_are_the_keystream_of_aes_128_in_counter_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    # NIST SP 800-38A, appendix F.5.1: the key, and the keystream block that its first counter gives.
    key, counter = "2b7e151628aed2a6abf7158809cf4f3c", "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
    block = "ec8cdf7398607cb0f2d21675ea9ea1e4"
    modes, seen = random_numbers.modes, []

    def first_counter(start: bytes) -> object:
        seen.append(start)
        return modes.CTR(bytes.fromhex(counter))

    monkeypatch.setattr(random_numbers.torch, "randint", lambda *_, **__: torch.tensor(list(bytes.fromhex(key))))
    monkeypatch.setattr(random_numbers, "modes", type("Modes", (), {"CTR": staticmethod(first_counter)}))
    expected = torch.frombuffer(bytearray.fromhex(block), dtype=torch.int32)
    # ⌊w · 2³¹ / 2³²⌋ drops the lowest bit of the word w + 2³¹.
    assert torch.equal(words(0, 4), (expected.long() + 2**31) // 2)
    assert seen == [bytes(16)]


def test_a_sequence_goes_on_from_call_to_call_and_across_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = words(4, 1024)
    monkeypatch.setattr(random_numbers, "WORDS", 128)
    numbers = RandomNumbers(torch.empty(0), generator(4))
    parts = [numbers.choices(2**31, (size,)) for size in (4, 200, 56, 764)]  # AES makes four words at a time
    assert torch.equal(torch.cat(parts), whole)
    assert len(whole.unique()) > 1020


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_generator_decides_everything(dtype: torch.dtype) -> None:
    before = torch.get_rng_state()
    assert torch.equal(drawn(5, 70_000, dtype=dtype), drawn(5, 70_000, dtype=dtype))
    assert not torch.equal(drawn(5, 70_000, dtype=dtype), drawn(6, 70_000, dtype=dtype))
    assert torch.equal(torch.get_rng_state(), before)
    source = generator(7)
    first, second = (RandomNumbers(torch.empty(0), source).choices(2**31, (8,)) for _ in range(2))
    assert not torch.equal(first, second)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        memory = torch.empty(70_000, dtype=dtype)
        assert torch.equal(RandomNumbers(memory).normal_(memory), drawn(5, 70_000, dtype=dtype))


def test_keys_are_sixteen_uniform_bytes_and_never_come_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[bytes] = []
    aes = random_numbers.algorithms.AES
    monkeypatch.setattr(
        random_numbers, "algorithms", type("Algorithms", (), {"AES": lambda key: keys.append(key) or aes(key)})
    )
    source = generator(10)
    for _ in range(1000):
        RandomNumbers(torch.empty(0), source)
    assert len(set(keys)) == 1000
    for place in range(16):
        counts = torch.bincount(torch.tensor([key[place] for key in keys]), minlength=256)
        assert len(counts) == 256
        assert stats.chisquare(counts.numpy()).pvalue > 1e-4


def test_elsewhere_torch_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_numbers, "computes_eagerly_on_cpu", lambda _: False)
    assert torch.equal(drawn(8, 100), torch.randn(100, generator=generator(8)))
    chosen = RandomNumbers(torch.empty(0), generator(9)).choices(12, (3, 4))
    assert torch.equal(chosen, torch.randint(12, (3, 4), generator=generator(9)))
