"""Which checkpoints the Space loads, and how many it keeps."""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi

from synco_hub import SynCoConfig, SynCoModel, list_models
from synco_hub.hub.loading import load_with_head
from synco_hub.models import image_processor

logger = logging.getLogger(__name__)

UNTRAINED = "untrained-vit-nano (random weights)"
LARGEST_DOWNLOAD_BYTES = 2 * 1024**3
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


class ModelCache:
    """The least recently used model makes room for the next."""

    def __init__(self, offered: Sequence[str] | None = None, keep: int = 4) -> None:
        sources = list(offered) if offered else [row.name for row in list_models() if row.installed]
        self.trained = bool(sources)
        # Of a directory only its name is shown: where it lies on the server is no visitor's business.
        self._sources = {_shown_name(source): source for source in sources or [UNTRAINED]}
        self.offered = list(self._sources)
        self._keep = keep
        self._models: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def get(self, name: str) -> tuple[Any, Any]:
        """A frozen model and its image processor, loaded on first use.

        The name is an offered one, a short one of the zoo, or a public Hub id. A ValueError says why it is none of
        these, or the checkpoint cannot be loaded, is too large, or is no vision model.
        """
        # One load at a time: two large checkpoints at once would double the peak memory.
        with self._lock:
            if name not in self._models:
                self._models[name] = self._load(name)
            self._models.move_to_end(name)
            while len(self._models) > self._keep:
                forgotten, _ = self._models.popitem(last=False)
                logger.info("forgot %s", forgotten)
            return self._models[name]

    def _load(self, name: str) -> tuple[Any, Any]:
        logger.info("loading %s", name)
        if name == UNTRAINED:
            return _untrained()
        if name not in self._sources and name not in {row.name for row in list_models()}:
            _check_hub_id(name)
        source = self._sources.get(name, name)
        try:
            model, processor = load_with_head(source)
        except OSError as error:
            if Path(source).is_dir():
                # transformers' own words would show where it lies.
                raise ValueError(
                    f"{name} could not be loaded: it has no weights or image processor for transformers."
                ) from error
            if "/" not in name:
                raise ValueError(str(error)) from error
            raise ValueError(
                f"{name} could not be loaded from the Hub: it does not exist, is private, has no weights or image "
                "processor for transformers, or the Hub cannot be reached from here."
            ) from error
        except (ValueError, KeyError, ImportError) as error:
            reason = str(error).splitlines()[0].replace(source, name)
            raise ValueError(f"{name} cannot be shown: {reason}") from error
        return model.requires_grad_(False), processor


def _shown_name(source: str) -> str:
    return Path(source).resolve().name if Path(source).is_dir() else source


def _check_hub_id(name: str) -> None:
    """Refuse paths, what is no public Hub id, and what is too large, before anything touches the disk or fills it."""
    if not _HUB_ID.fullmatch(name) or ".." in name or Path(name).exists():
        raise ValueError(
            f"{name!r} is not a model: choose one from the list, or type a public Hub id like facebook/dino-vits16."
        )
    try:
        files = HfApi().model_info(name, files_metadata=True, timeout=10).siblings or []
    except Exception as error:
        # The client raises its own and httpx's errors; for a visitor all of them mean the same.
        raise ValueError(
            f"{name} was not found on the Hub: it does not exist, is private, or the Hub cannot be reached from here."
        ) from error
    weights = sum(file.size or 0 for file in files if file.rfilename == "model.safetensors")
    if not weights:
        raise ValueError(f"{name} has no model.safetensors: only whole safetensors checkpoints are loaded here.")
    if weights > LARGEST_DOWNLOAD_BYTES:
        raise ValueError(
            f"{name} has {weights / 1e9:.1f} GB of weights, the limit here is {LARGEST_DOWNLOAD_BYTES / 1e9:.1f} GB: "
            "choose a smaller checkpoint, or run this Space yourself."
        )


def _untrained() -> tuple[Any, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = SynCoModel(SynCoConfig(backbone="vit-nano"))
    return model.eval().requires_grad_(False), image_processor(32)
