"""The parser of the training commands' flags, whose errors are one line."""

from __future__ import annotations

from typing import Any, NoReturn

from transformers import HfArgumentParser


class FlagParser(HfArgumentParser):
    """Makes dataclasses of flags; the usage is one line, since that of every flag would be some 150."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"usage": "%(prog)s --output-dir FOLDER [--flag value ...]", **kwargs})

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving.

        Args:
            message: What `argparse` found.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{message}; --help shows every flag and what it takes.")
