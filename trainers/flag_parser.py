"""The parser of the training commands' flags, whose errors are one line."""

from __future__ import annotations

from typing import NoReturn

from transformers import HfArgumentParser


class FlagParser(HfArgumentParser):
    """Makes dataclasses of flags; the usage, which would be some 150 lines, is shown by `--help` alone."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving.

        Args:
            message: What `argparse` found.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{message}; --help shows every flag and what it takes.")
