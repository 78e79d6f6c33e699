"""Which checkpoints the Space loads, and how many it keeps."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from space_app.typed_models import fetch_typed_model
from synco_hub import list_models
from synco_hub.hub.loading import load_with_head

logger = logging.getLogger(__name__)

# Visitors who wait for typed names at the same time, fewer than are served at once: the rest is for what is offered.
MOST_TYPED_WAITING = 4
# How long the download of a typed name may take.
TYPED_SECONDS = 120.0
_OFFERED_LOADS = 2


class ModelCache:
    """The least recently used model makes room for the next.

    Models that are offered are loaded with the credentials of whoever runs the Space, typed ones without. Nobody waits
    for the download of a model that he did not ask for, unless two offered ones are being loaded already.
    """

    def __init__(
        self, offered: Sequence[str] | None = None, keep: int = 4, typed_seconds: float = TYPED_SECONDS
    ) -> None:
        rows = [row for row in list_models() if row.directory]
        # What ships has seen drawn fractals alone, which a visitor has to know.
        self.shipped_only = not offered and not any(row.installed for row in rows)
        # Of a directory only its name is shown: where it lies on the server is no visitor's business.
        self._sources = {_shown_name(source): source for source in offered or [row.name for row in rows]}
        self.offered = list(self._sources)
        self._keep = keep
        self._typed_seconds = typed_seconds
        self._models: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._loading: dict[str, Future[tuple[Any, Any]]] = {}
        # Held for moments only, never while anything is read or downloaded.
        self._lock = threading.Lock()
        # Many large checkpoints at once would multiply the peak memory.
        self._offered_loads = threading.BoundedSemaphore(_OFFERED_LOADS)
        self._typed_loads = threading.Lock()
        self._typed_waiting = threading.BoundedSemaphore(MOST_TYPED_WAITING)

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def get(self, name: str) -> tuple[Any, Any]:
        """A frozen model and its image processor, loaded on first use, once for all who ask meanwhile.

        The name is an offered one, a published one of the zoo, or a public Hub id. A ValueError says why it is none of
        these, or the checkpoint cannot be loaded, is too large or too slow to come, or is no vision model.
        """
        with self._lock:
            if name in self._models:
                self._models.move_to_end(name)
                return self._models[name]
        if name in self._sources:
            return self._load_once(name)
        with self._wait_as_typed(name):
            return self._load_once(name)

    @contextmanager
    def _wait_as_typed(self, name: str) -> Iterator[None]:
        if not self._typed_waiting.acquire(blocking=False):
            raise ValueError(
                f"{name} was not loaded: {MOST_TYPED_WAITING} visitors wait for typed models already. Try again in a "
                "minute, or choose a model from the list."
            )
        try:
            yield
        finally:
            self._typed_waiting.release()

    def _load_once(self, name: str) -> tuple[Any, Any]:
        """Load a model, or wait for whoever is loading it already."""
        with self._lock:
            if name in self._models:
                return self._models[name]
            mine = name not in self._loading
            loading = self._loading.setdefault(name, Future())
        if mine:
            try:
                loaded = self._load(name)
            except BaseException as error:
                with self._lock:
                    del self._loading[name]
                loading.set_exception(error)
            else:
                with self._lock:
                    del self._loading[name]
                    self._keep_model(name, loaded)
                loading.set_result(loaded)
        return loading.result()

    def _keep_model(self, name: str, loaded: tuple[Any, Any]) -> None:
        """Keep a model, and forget others: typed ones have half of the places, the rest is for offered ones."""
        self._models[name] = loaded
        typed = [one for one in self._models if one not in self._sources]
        forgotten = typed[: max(len(typed) - max(self._keep // 2, 1), 0)]
        kept = [one for one in self._models if one not in forgotten]
        for one in forgotten + kept[: max(len(kept) - self._keep, 0)]:
            del self._models[one]
            logger.info("forgot %s", one)

    def _load(self, name: str) -> tuple[Any, Any]:
        logger.info("loading %s", name)
        if name in self._sources:
            with self._offered_loads:
                return _load_checkpoint(name, self._sources[name])
        row = next((row for row in list_models() if row.name == name), None)
        if row is not None and row.hub_repo is None:
            raise ValueError(f"{name} is not offered here: choose a model from the list. {row.how_to_obtain}")
        repository = row.hub_repo if row is not None and row.hub_repo else name
        try:
            with fetch_typed_model(repository, self._typed_seconds) as folder, self._typed_loads:
                return _load_checkpoint(name, str(folder), typed=True)
        except OSError as error:
            logger.info("%s", error)
            raise ValueError(_describe_hub_failure(name)) from error


def _load_checkpoint(name: str, source: str, typed: bool = False) -> tuple[Any, Any]:
    """Load, with one clear line in which nothing of the server's disk is shown."""
    try:
        model, processor = load_with_head(source)
    except OSError as error:
        if typed:
            raise
        if Path(source).is_dir():
            # transformers' own words would show where it lies.
            raise ValueError(
                f"{name} could not be loaded: it has no weights or image processor for transformers."
            ) from error
        if "/" not in name:
            raise ValueError(str(error)) from error
        raise ValueError(_describe_hub_failure(name)) from error
    except (ValueError, KeyError, ImportError) as error:
        reason = str(error).splitlines()[0].replace(source, name)
        raise ValueError(f"{name} cannot be shown: {reason}") from error
    return model.requires_grad_(False), processor


def _describe_hub_failure(name: str) -> str:
    return (
        f"{name} could not be loaded from the Hub: it does not exist, is private, has no weights or image "
        "processor for transformers, or the Hub cannot be reached from here."
    )


def _shown_name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source
