"""Checkpoints of tiny networks with random weights, as every test of the Space wants them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture(scope="session")
def save_checkpoint() -> Callable[..., str]:
    """Writes a network of 32 pixels into a folder, and gives its path."""

    def save(directory: Path, backbone: str = "vit-nano", kind: type = SynCoModel, **settings: Any) -> str:
        torch.manual_seed(0)
        kind(SynCoConfig(backbone=backbone, **settings)).save_pretrained(directory)
        image_processor(32).save_pretrained(directory)
        return str(directory)

    return save
