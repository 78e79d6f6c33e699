"""What a model saw in a picture, computed once: moving a slider draws again but never runs the model again."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from PIL import Image

from space_app.model_cache import ModelCache
from space_app.uploaded_image import decoded, read_upload
from synco_hub.visualization import prepared_image
from synco_hub.visualization.overlay import PreparedImage

SHOWN_SIDE = 384
_Result = TypeVar("_Result")


class Looks:
    """A bounded memory of results by picture, model, detail and kind.

    Args:
        models: Where models come from.
        keep: Results at most; the least recently used is forgotten.
    """

    def __init__(self, models: ModelCache, keep: int = 64) -> None:
        self.models = models
        self._keep = keep
        self._results: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()
        self.computed = 0

    def __len__(self) -> int:
        return len(self._results)

    def result(
        self,
        compute: Callable[[Any, PreparedImage], _Result],
        path: str | None,
        model: str,
        detail: int = 1,
        extra: tuple[Any, ...] = (),
    ) -> tuple[PreparedImage, _Result]:
        """What `compute` gives for a picture and a model, from memory if it is there.

        Args:
            compute: Called with the model and the prepared picture; its name is part of the key.
            path: The upload.
            model: Name of the model.
            detail: See :func:`synco_hub.visualization.prepared_image`.
            extra: What else the result depends on.

        Raises:
            ValueError: If the picture or the model cannot be used.
        """
        data = read_upload(path)
        key = (compute.__name__, hashlib.sha256(data).digest(), model, detail, *extra)
        return self._remembered(key, lambda: self._compute(compute, decoded(data), model, detail))

    def _compute(
        self, compute: Callable[[Any, PreparedImage], _Result], picture: Image.Image, model: str, detail: int
    ) -> tuple[PreparedImage, _Result]:
        network, processor = self.models.get(model)
        prepared = prepared_image(picture, processor, detail, SHOWN_SIDE)
        return prepared, compute(network, prepared)

    def _remembered(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = compute()
        with self._lock:
            self.computed += 1
            self._results[key] = result
            while len(self._results) > self._keep:
                self._results.popitem(last=False)
        return result
