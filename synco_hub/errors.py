"""How a command fails: one clear line and a non-zero exit code; what a stranger's file says is made fit to show."""

from __future__ import annotations

import difflib
import errno
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from subprocess import CalledProcessError

# Set by `--debug`, and inherited by the processes that a command starts.
DEBUG_VARIABLE = "SYNCO_HUB_DEBUG"
# What the system says about a file that cannot be written or read, and what to do.
_REMEDIES = {
    errno.EROFS: "the file system is read-only: choose another --output or --output-dir",
    errno.EACCES: "permission denied: choose another path, or change the permissions",
    errno.EPERM: "the system does not permit it: choose another path, or change the permissions",
    errno.ENOSPC: "no space is left on the device: free some, or choose an output on another disk",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose an output on another disk",
}


_EXPLAINED = "explained_by_synco_hub"
_OF_NO_BATCH = ("this", "give --device cpu, a smaller batch or smaller images")


class DoesNotApplyError(ValueError):
    """What is asked for is not for this model or data set; `evaluate all` passes over it."""


class FlagError(ValueError):
    """A command line that asks for what there is not; commands end with exit code 2 then."""


@contextmanager
def report_errors() -> Iterator[None]:
    """Within this context an exception becomes `error: …` on standard error and exit code 1 (Ctrl-C: 130)."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except CalledProcessError as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        if error.returncode > 0:  # the other process has said why, in a line of its own
            sys.exit(error.returncode)
        print(f"error: the process that this command started was ended by signal {-error.returncode}", file=sys.stderr)  # noqa: T201
        sys.exit(128 - error.returncode)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        expected = isinstance(error, (ValueError, OSError, ArithmeticError, ImportError))
        if is_out_of_memory(error):
            expected = True
            error = error if hasattr(error, _EXPLAINED) else _explain(error, *_OF_NO_BATCH)
        said = " ".join((_explain_file_error(error) or str(error)).split())
        text = said if expected else f"{type(error).__name__}: {said}"
        hint = "" if expected else " (this is a bug; add --debug for the traceback)"
        print(f"error: {text}{hint}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


def _explain_file_error(error: Exception) -> str | None:
    """The line for a disk or a permission that stands in the way; None for other errors."""
    if not isinstance(error, OSError) or error.errno not in _REMEDIES:
        return None
    paths = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(paths) + ': ' if paths else ''}{_REMEDIES[error.errno]}."


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's memory did not suffice; torch's own class, told by its name so that nothing imports torch."""
    return isinstance(error, RuntimeError) and type(error).__name__ == "OutOfMemoryError"


@contextmanager
def explain_out_of_memory(describe: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Within this context, a device's memory that does not suffice says in one line what was tried and what to do.

    The error stays torch's. `describe` gives both; an error that was explained further within stays as it is.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error) or hasattr(error, _EXPLAINED):
            raise
        raise _explain(error, *describe()) from error


def _explain(error: Exception, tried: str, remedy: str) -> Exception:
    # Of torch's paragraph what was asked for and what there is.
    said = str(error).split(". Including")[0].split(". If reserved")[0].rstrip(". ").replace("\n", " ")
    explained = type(error)(f"the memory of the device is too small for {tried} ({said}): {remedy}.")
    setattr(explained, _EXPLAINED, True)
    return explained


def describe_batch(batch_size: int, image_size: int | None, network: str, what: str = "") -> str:
    """What was tried, for `explain_out_of_memory`."""
    pixels = f" of {image_size} pixels" if image_size else ""
    return f"{what}{batch_size} image{'s' if batch_size > 1 else ''}{pixels} with {network}"


def escape(text: object, longest: int = 120) -> str:
    """A name in printable characters on one line, its end left out where it is long."""
    whole = str(text)
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in whole[: longest + 1])
    return printable if len(printable) <= longest else f"{printable[:longest]}…"


def join_names(texts: Iterable[object], most: int) -> str:
    """The first names of many, with commas; an ellipsis where some are left out."""
    names = list(texts)
    return ", ".join(map(escape, names[:most])) + (" …" if len(names) > most else "")


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean …?` with the nearest known names, for the end of an error's line; nothing where none is near."""
    near = difflib.get_close_matches(name, list(dict.fromkeys(known)), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(each) for each in near)}?" if near else ""
