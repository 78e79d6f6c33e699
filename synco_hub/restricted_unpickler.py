"""Pickles of strangers, read without running anything that they name.

A pickle is a program: it may name any function and call it. Here every name is looked up in a table that the caller
gives, nothing is imported, and whatever is not in the table is refused. The table holds plain containers and small
functions of ours, so that the worst a file can do is to be refused.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from synco_hub.errors import escape

# The most objects that a pickle may remember or nest: real checkpoints have tens of thousands.
MAX_OPERATIONS = 20_000_000
_LONGEST_REASON = 300
_REMEDY = "Only plain data and tensors are read; if you trust its author, ask for a file without code (.safetensors)."
# Numbers given to classes by whoever filled `copyreg`'s registry: they would bypass the look-up of names.
_EXTENSION_OPERATIONS = {"EXT1", "EXT2", "EXT4"}
_MEMO_OPERATIONS = {"PUT", "BINPUT", "LONG_BINPUT"}


class PlainMapping(dict[Any, Any]):
    """What dictionaries, namespaces and configurations of any class become: a dict, without their class's code."""

    def __setstate__(self, state: Any) -> None:
        """Take a namespace's attributes as items; a configuration's own book-keeping (`__immutable__`) is left out."""
        if not isinstance(state, dict):
            raise pickle.UnpicklingError(f"a namespace's state is a {type(state).__name__}, not a dictionary")
        self.update({key: value for key, value in state.items() if not str(key).startswith("__")})


class PlainOrdered(PlainMapping):
    """An ordered dictionary; attributes that were hung on one (torch's `_metadata`) are left out."""

    def __setstate__(self, state: Any) -> None:
        """Leave them out."""


class _Function:
    """A function of ours that a pickle may call but not change (`BUILD` would set a plain function's attributes)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function has no state")


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """What old protocols write for bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes are written as text in {encoding!r}, only latin1 is known")
    return text.encode("latin1")


# Harmless in every pickle. Protocols up to 2 say `__builtin__` for `builtins`.
PLAIN_CLASSES: dict[str, Any] = {
    "collections.OrderedDict": PlainOrdered,
    "builtins.dict": PlainMapping,
    "builtins.list": list,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.dict": PlainMapping,
    "__builtin__.list": list,
    "__builtin__.set": set,
    "__builtin__.frozenset": frozenset,
    "_codecs.encode": _encode,
}


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that knows only the names it was given and imports nothing.

    Args:
        stream: Where the pickle begins.
        classes: `"module.name"`, as the pickle says it, to a class that stands for it (a plain container, or one with
            a `__setstate__` of its own) or to a function of ours that is called instead.
        persistent: What stands for an object that the pickle keeps elsewhere (torch's storages); None refuses them.
        encoding: How strings of Python 2 are read.
    """

    def __init__(
        self,
        stream: Any,
        classes: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None = None,
        encoding: str = "ASCII",
    ) -> None:
        super().__init__(stream, encoding=encoding)
        self._classes = {
            name: found if isinstance(found, type) or not callable(found) else _Function(found)
            for name, found in {**PLAIN_CLASSES, **classes}.items()
        }
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table.

        Raises:
            pickle.UnpicklingError: If it is not there.
        """
        # Dots inside the name would walk from an allowed object to any attribute; the table knows none of those.
        found = None if "." in name else self._classes.get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither data nor a known class")
        return found

    def persistent_load(self, identifier: Any) -> Any:
        """Look an object that is kept elsewhere up.

        Raises:
            pickle.UnpicklingError: If none were expected.
        """
        if self._persistent is None:
            raise pickle.UnpicklingError("it refers to objects outside of itself")
        return self._persistent(identifier)


def load_plain(
    stream: Any,
    classes: Mapping[str, Any] | None = None,
    *,
    persistent: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
    origin: str = "the pickle",
    remedy: str = _REMEDY,
) -> Any:
    """Read one pickle as plain data; nothing that it names is imported or run.

    Args:
        stream: A seekable binary stream at the pickle's beginning, or its bytes. Afterwards the stream stands behind
            the pickle.
        classes: Beside dictionaries, lists, sets and numbers; see `RestrictedUnpickler`. `PlainMapping` is the class
            for namespaces and configurations.
        persistent: See `RestrictedUnpickler`.
        encoding: How strings of Python 2 are read; `latin1` for arrays of its time.
        origin: What to call it in an error.
        remedy: What to do about a bad one, as a sentence.

    Returns:
        Dictionaries (`PlainMapping` for classes), lists, tuples, sets, numbers, text, bytes, and what `classes` makes.

    Raises:
        ValueError: If it is no pickle, is damaged, names anything else, or asks for absurd amounts of memory.
    """
    stream = io.BytesIO(stream) if isinstance(stream, (bytes, bytearray, memoryview)) else stream
    try:
        data = _checked(stream)
        return RestrictedUnpickler(io.BytesIO(data), classes or {}, persistent, encoding).load()
    except RecursionError:
        raise ValueError(f"{origin} is refused: it is nested too deeply to be data. {remedy}") from None
    except Exception as error:  # a hostile pickle can provoke any kind of error in any operation
        reason = escape(" ".join(str(error).split()), _LONGEST_REASON)
        raise ValueError(
            f"{origin} is refused and nothing in it was run: {reason or type(error).__name__}. {remedy}"
        ) from error


def _checked(stream: Any) -> bytes:
    """The bytes of the next pickle, without numbered classes or places in memory far beyond its own length."""
    start = stream.tell()
    for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        if operation.name in _EXTENSION_OPERATIONS:
            raise pickle.UnpicklingError(f"it names a class by the number {argument} ({operation.name})")
        if operation.name in _MEMO_OPERATIONS and int(argument or 0) > count:
            raise pickle.UnpicklingError(f"it remembers object {argument} after {count} operations")
        if count > MAX_OPERATIONS:
            raise pickle.UnpicklingError(f"it has more than {MAX_OPERATIONS} operations")
    end = stream.tell()
    stream.seek(start)
    data: bytes = stream.read(end - start)
    return data
