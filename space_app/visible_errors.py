"""What went wrong, in words for the visitor; never a stack trace."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr

logger = logging.getLogger(__name__)


def words_for(error: Exception) -> str:
    """What a visitor is told about an error; what nobody foresaw is logged with its traceback.

    Args:
        error: What was raised; a ``ValueError`` explains itself.
    """
    if isinstance(error, ValueError):
        return str(error)
    logger.error("an event failed", exc_info=error)
    return f"Something unexpected went wrong here ({type(error).__name__}). Try another picture or model."


def visible_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn every failure of an event into a message for the visitor.

    Args:
        function: What an event calls.

    Returns:
        The same function, whose only exception is ``gr.Error``.
    """

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            raise gr.Error(words_for(error), title="That did not work", print_exception=False) from None

    return guarded
