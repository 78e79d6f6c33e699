"""What went wrong, in words on the page; never a stack trace."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

logger = logging.getLogger(__name__)


def visible_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn every failure of an event into a message for the visitor.

    Args:
        function: What an event calls; a generator function stays one.

    Returns:
        The same function, whose only exception is ``gr.Error``.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise _as_message(error) from None

        return generator

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _as_message(error) from None

    return plain


def _as_message(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, ValueError):
        return gr.Error(str(error), title="That did not work", duration=12, print_exception=False)
    logger.exception("an event failed")
    return gr.Error(
        f"Something unexpected went wrong here ({type(error).__name__}). Try another picture or model.",
        title="That did not work",
        duration=12,
        print_exception=False,
    )
