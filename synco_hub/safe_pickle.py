"""Pickles of numpy's arrays from strangers: dictionaries, lists, text, numbers and arrays of numbers, nothing else.

A pickle is a program that may name any function and call it. Here every name is looked up in a short table of
stand-ins, nothing is imported, and numpy's own reconstruction, which trusts what it is given, is never called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from synco_hub.errors import escape

_LONGEST_REASON = 300


def load_arrays(data: bytes, origin: str, remedy: str) -> Any:
    """Read one pickle of arrays and plain data; nothing that it names is imported or run.

    Returns:
        Dictionaries, lists, tuples, numbers, text, bytes and :class:`PickledArray`.
    """
    try:
        _refuse_absurd(data)
        return _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a hostile pickle can provoke any kind of error in any operation
        reason = escape(" ".join(str(error).split()), _LONGEST_REASON) or type(error).__name__
        raise ValueError(f"{origin} is refused and nothing in it was run: {reason}. {remedy}") from error


class PickledArray:
    """Stands for `numpy.ndarray`, whose numbers are `values`; iterates as the nested lists of its numbers."""

    def __init__(self, values: np.ndarray[Any, Any] | None = None) -> None:
        self.values: np.ndarray[Any, Any] = np.empty(0) if values is None else values

    def __setstate__(self, state: Any) -> None:
        _, shape, number_type, fortran, data = state
        self.values = _numbers(number_type, data).reshape(shape, order="F" if fortran else "C")

    def __iter__(self) -> Any:
        return iter(self.values.tolist())


class _NumberType:
    """Stands for `numpy.dtype`: its code, and the byte order, which comes second in numpy's state."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        if not re.fullmatch("[iufb][1248]", str(code)):
            raise pickle.UnpicklingError(f"it holds an array of {code!r}: only numbers are read")
        self.kind = np.dtype(str(code))

    def __setstate__(self, state: Any) -> None:
        self.kind = self.kind.newbyteorder(state[1])


class _Function:
    """A function of ours that a pickle may call but not change (`BUILD` would set a plain function's attributes)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function has no state")


def _numbers(number_type: _NumberType, data: Any) -> np.ndarray[Any, Any]:
    # Pickles of Python 2 keep bytes as text.
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else bytes(data), number_type.kind)


def _array_of_buffer(data: Any, number_type: Any, shape: Any, order: Any, axis_order: None = None) -> PickledArray:
    """What protocol 5 writes for arrays; axes in any other order than C's or Fortran's are numpy 2.3's."""
    if axis_order is not None:
        raise pickle.UnpicklingError(f"an array's axes are in the order {axis_order}")
    return PickledArray(_numbers(number_type, data).reshape(shape, order=order))


def _scalar(number_type: Any, data: Any) -> int | float | bool:
    number: int | float | bool = _numbers(number_type, data)[0].item()
    return number


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What old protocols write for bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes are written as text in {encoding!r}, only latin1 is known")
    return text.encode("latin1")


# What numpy 1 and numpy 2 call the same things.
NUMPY_STAND_INS: dict[str, Any] = {
    "numpy.ndarray": PickledArray,
    "numpy.dtype": _NumberType,
    "_codecs.encode": _Function(_encode),
    "__builtin__.bytes": _Function(lambda: b""),
}
for _home in ("numpy.core", "numpy._core"):
    NUMPY_STAND_INS[f"{_home}.multiarray._reconstruct"] = _Function(lambda kind, shape, code: PickledArray())
    NUMPY_STAND_INS[f"{_home}.multiarray.scalar"] = _Function(_scalar)
    NUMPY_STAND_INS[f"{_home}.numeric._frombuffer"] = _Function(_array_of_buffer)


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # Dots inside the name would walk from a stand-in to any attribute of it.
        if "." in name or f"{module}.{name}" not in NUMPY_STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither data nor a known class")
        return NUMPY_STAND_INS[f"{module}.{name}"]


def _refuse_absurd(data: bytes) -> None:
    """Stops at lengths beyond the file, which `pickletools` finds, and at what `find_class` never sees."""
    for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name.startswith("EXT"):
            raise pickle.UnpicklingError(f"it names a class by the number {argument} ({operation.name})")
        # The unpickler's memory grows to the largest number: gigabytes for one line of text.
        if operation.name.endswith("PUT") and int(argument or 0) > count:
            raise pickle.UnpicklingError(f"it remembers object {argument} after {count} operations")
