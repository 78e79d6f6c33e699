"""Pickles of numpy's arrays from strangers: dictionaries, lists, text, numbers and arrays of numbers, nothing else.

Numpy's own reconstruction is never called: stand-ins here take the bytes of the array and read integers, floats and
booleans from them. Any other type (objects, records, text) is refused.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np

from synco_hub.restricted_unpickler import load_plain

_NUMBER_KINDS = "iufb"
_MOST_BYTES = 1 << 28


class PickledType:
    """Stands for `numpy.dtype`: its code and byte order."""

    def __init__(self, code: str = "", align: Any = False, copy: Any = False) -> None:
        self._code = str(code)
        self._order: Any = "="

    def __setstate__(self, state: Any) -> None:
        """Take the byte order, which comes second in numpy's state."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("a number type's state is damaged")
        self._order = state[1]

    def numpy_type(self) -> np.dtype[Any]:
        """The type, if it is one of numbers.

        Raises:
            pickle.UnpicklingError: If it is none.
        """
        if self._code[:1] not in _NUMBER_KINDS or self._code[1:] not in ("1", "2", "4", "8"):
            raise pickle.UnpicklingError(f"it holds an array of {self._code!r}: only numbers are read")
        return np.dtype(self._code).newbyteorder(self._order)


class PickledArray:
    """Stands for `numpy.ndarray`; iterates as the nested lists of its numbers.

    Attributes:
        values: The array; not writable.
    """

    def __init__(self) -> None:
        self.values: np.ndarray[Any, Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and bytes, as numpy writes them."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("an array's state is damaged")
        _, shape, number_type, fortran, data = state
        self.values = _numbers(number_type, data).reshape(shape, order="F" if fortran else "C")

    def __iter__(self) -> Iterator[Any]:
        numbers: list[Any] = self.values.tolist()
        return iter(numbers)


def load_arrays(data: bytes, origin: str, remedy: str) -> Any:
    """Read one pickle of arrays and plain data; nothing that it names is imported or run.

    Args:
        data: The pickle. Text and arrays of Python 2 are read as latin1.
        origin: What to call it in an error.
        remedy: What to do about a bad one, as a sentence.

    Returns:
        Dictionaries, lists, tuples, numbers, text, bytes and :class:`PickledArray`.

    Raises:
        ValueError: If it is no pickle, is damaged, or asks for anything else.
    """
    return load_plain(data, ARRAY_CLASSES, encoding="latin1", origin=origin, remedy=remedy)


def _new_array(kind: Any, shape: Any, code: Any) -> PickledArray:
    return PickledArray()


def _array_of_buffer(data: Any, number_type: Any, shape: Any, order: Any, axis_order: Any = None) -> PickledArray:
    """What protocol 5 writes for arrays; axes in any other order than C's or Fortran's are numpy 2.3's."""
    if order not in ("C", "F") or axis_order is not None:
        raise pickle.UnpicklingError(f"an array's axes are in the order {axis_order or order!r}")
    array = PickledArray()
    array.values = _numbers(number_type, data).reshape(shape, order=order)
    return array


def _scalar(number_type: Any, data: Any) -> int | float | bool:
    number: int | float | bool = _numbers(number_type, data)[0].item()
    return number


def _no_bytes() -> bytes:
    """What old protocols write for the bytes of an empty array."""
    return b""


def _numbers(number_type: Any, data: Any) -> np.ndarray[Any, Any]:
    if not isinstance(number_type, PickledType):
        raise pickle.UnpicklingError("a number's type is damaged")
    kind = number_type.numpy_type()
    # Pickles of Python 2 keep bytes as text; those of protocol 5 keep writable ones.
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data) if isinstance(data, bytearray) else data
    if not isinstance(raw, bytes) or len(raw) > _MOST_BYTES:
        raise pickle.UnpicklingError("an array's bytes are damaged or larger than 256 MiB")
    return np.frombuffer(raw, dtype=kind)


# What numpy 1 and numpy 2 call the same things.
ARRAY_CLASSES: dict[str, Any] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": PickledType,
    "__builtin__.bytes": _no_bytes,
    **{f"numpy.{home}.multiarray._reconstruct": _new_array for home in ("core", "_core")},
    **{f"numpy.{home}.multiarray.scalar": _scalar for home in ("core", "_core")},
    **{f"numpy.{home}.numeric._frombuffer": _array_of_buffer for home in ("core", "_core")},
}
