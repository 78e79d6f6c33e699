"""How a command fails: one clear line and a non-zero exit code; the traceback only for who asks."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

# Set by `--debug`, and inherited by the processes that a command starts.
DEBUG_VARIABLE = "SYNCO_HUB_DEBUG"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Within this context an exception becomes `error: …` on standard error and exit code 1 (Ctrl-C: 130)."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE):
            traceback.print_exc()
        expected = isinstance(error, (ValueError, OSError, ArithmeticError, ImportError))
        text = " ".join(str(error).split()) if expected else f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "" if expected else " (this is a bug; add --debug for the traceback)"
        print(f"error: {text}{hint}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
