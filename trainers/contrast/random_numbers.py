"""Normal numbers and choices in bulk, on a CPU in half the time that torch takes to draw them.

torch draws random bits for a CPU one number after the other, which takes longer than all else that is done with them.
Processors have instructions for AES, and its keystream in counter mode is a sequence of random bits, too: word number
i depends on i and the key alone. The key comes from torch's generator, so the generator's state decides everything. A
32-bit word w, taken as signed, becomes the normal distribution's quantile √2 · erf⁻¹(w / 2³¹), as finely as float32
resolves it; taken as unsigned, the choice ⌊w · n / 2³²⌋ among n. Double precision, a compiler's trace and accelerators
draw by torch's own kernels, and so other numbers from the same state.

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (generators that are a cipher of a counter).
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from torch import Tensor

from trainers.contrast.eager_cpu import computes_eagerly_on_cpu

# Words in work at a time: they stay in a CPU's second-level cache.
WORDS = 2**16
ZEROS = memoryview(bytes(4 * WORDS))
# Rounding must not take the largest words to ±1, whose quantile is infinite.
LARGEST_BELOW_ONE = 1 - 2**-24


class RandomNumbers:
    """Independent random numbers, a sequence that starts anew from the generator.

    Args:
        like: Gives dtype and device of the numbers.
        generator: Source of randomness on that device; None means the device's global one.
    """

    def __init__(self, like: Tensor, generator: torch.Generator | None = None) -> None:
        self._device, self._generator = like.device, generator
        self._keystream: CipherContext | None = None
        if like.dtype == torch.float32 and computes_eagerly_on_cpu(like):
            key = torch.randint(256, (16,), generator=generator, dtype=torch.uint8, device="cpu")
            self._keystream = Cipher(algorithms.AES(bytes(key.tolist())), modes.CTR(bytes(16))).encryptor()

    def choices(self, num: int, shape: tuple[int, ...]) -> Tensor:
        """Draws whole numbers in [0, num), int64, each equally likely up to num / 2³²; num is at most 2³¹."""
        if self._keystream is None:
            # A trace with sizes that change takes no generator, not even None (torch 2.15).
            source: dict[str, Any] = {} if self._generator is None else {"generator": self._generator}
            return torch.randint(num, shape, device=self._device, **source)
        choices = torch.empty(shape, dtype=torch.int64, device="cpu")
        for piece, words in self._words_for(choices):
            piece.copy_(words).add_(2**31).mul_(num).bitwise_right_shift_(32)
        return choices

    def normal_(self, memory: Tensor) -> Tensor:
        """Replaces the elements of a contiguous tensor by standard normal numbers, and returns it."""
        if self._keystream is None:
            return memory.normal_(generator=self._generator)
        for piece, words in self._words_for(memory):
            piece.copy_(words)
        return memory.mul_(LARGEST_BELOW_ONE / 2**31).erfinv_().mul_(math.sqrt(2))

    def _words_for(self, memory: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields pieces of a contiguous tensor, each with as many signed words, which the next overwrite."""
        assert self._keystream is not None
        all_words = torch.empty(min(WORDS, memory.numel()), dtype=torch.int32, device="cpu")
        all_bytes = all_words.numpy().data.cast("B")
        for piece in memory.view(-1).split(WORDS):
            size = 4 * len(piece)
            self._keystream.update_into(ZEROS[:size], all_bytes[:size])
            yield piece, all_words[: len(piece)]
