"""Numpy's arrays and scalars inside a restricted pickle, as plain lists and numbers.

Numpy's own reconstruction is never called: stand-ins here take the bytes of the array and read integers, floats and
booleans from them. Any other type (objects, records, text) is refused.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

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
    """Stands for `numpy.ndarray`.

    Attributes:
        values: Nested lists of numbers.
    """

    def __init__(self) -> None:
        self.values: Any = []

    def __setstate__(self, state: Any) -> None:
        """Take shape, type and bytes, as numpy writes them."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], PickledType):
            raise pickle.UnpicklingError("an array's state is damaged")
        _, shape, number_type, fortran, data = state
        flat = _numbers(number_type, data)
        self.values = flat.reshape(shape, order="F" if fortran else "C").tolist()


def plain_numbers(value: Any) -> Any:
    """Replace the stand-ins of arrays at any depth by their lists.

    Args:
        value: What :func:`synco_hub.restricted_unpickler.load_plain` read with :data:`NUMBER_CLASSES`.
    """
    if isinstance(value, PickledArray):
        return value.values
    if isinstance(value, dict):
        return {key: plain_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_numbers(entry) for entry in value]
    return value


def _new_array(kind: Any, shape: Any, code: Any) -> PickledArray:
    return PickledArray()


def _scalar(number_type: Any, data: Any) -> int | float | bool:
    if not isinstance(number_type, PickledType):
        raise pickle.UnpicklingError("a number's type is damaged")
    number: int | float | bool = _numbers(number_type, data)[0].item()
    return number


def _no_bytes() -> bytes:
    """What old protocols write for the bytes of an empty array."""
    return b""


def _numbers(number_type: PickledType, data: Any) -> np.ndarray[Any, Any]:
    kind = number_type.numpy_type()
    # Pickles of Python 2 keep bytes as text.
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(raw, bytes) or len(raw) > _MOST_BYTES:
        raise pickle.UnpicklingError("an array's bytes are damaged or larger than 256 MiB")
    return np.frombuffer(raw, dtype=kind)


# What numpy 1 and numpy 2 call the same things.
NUMBER_CLASSES: dict[str, Any] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": PickledType,
    "__builtin__.bytes": _no_bytes,
    **{f"numpy.{core}.multiarray._reconstruct": _new_array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
}
