"""OpenCV, imported when the first image needs it."""

import importlib
from functools import cache
from typing import Any


@cache
def opencv() -> Any:
    """OpenCV, kept to one thread: loader processes must not fight over cores."""
    # Not at the top: it takes a tenth of a second, and much of the package works without a picture.
    module = importlib.import_module("cv2")
    module.setNumThreads(0)
    return module
