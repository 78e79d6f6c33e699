"""Runs commands in the process of a test, as the console script would."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

from synco_hub.cli.main import run
from synco_hub.errors import FlagError


@dataclass
class Ended:
    exit_code: int
    output: str
    stderr: str
    exception: BaseException | None = None


def invoke(words: Sequence[str], answer: str = "") -> Ended:
    """Run a command line; what it raises is kept, with the exit code that the console script ends with."""
    out, err, exception = io.StringIO(), io.StringIO(), None
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "stdin", io.StringIO(answer)):
        try:
            code = run([str(word) for word in words])
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        except FlagError as error:
            code, exception = 2, error
        except Exception as error:
            code, exception = 1, error
    return Ended(code, out.getvalue(), err.getvalue(), exception)
