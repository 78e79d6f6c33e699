import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from data_trees.original import write_original

from synco_hub.data import EvaluationDataset, EvaluationTransform, load_dataset
from synco_hub.data.corruptions.watermarked_images import _watermark
from synco_hub.settings import DatasetChoice


class AddWatermark:
    """Stands in for the official package's transform: a called module of one argument, the image size."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, view: torch.Tensor) -> torch.Tensor:
        assert view.shape == (3, self.image_size, self.image_size)
        assert 0 <= view.min() <= view.max() <= 1
        marked = view.clone()
        marked[:, 0, 0] = 1.0
        return marked


def test_the_mark_is_drawn_between_crop_and_normalisation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imagenet_w", SimpleNamespace(AddWatermark=AddWatermark))
    _watermark.cache_clear()
    tree = write_original("imagenet-1k", tmp_path)
    marked = load_dataset(DatasetChoice("imagenet-w", data_dir=str(tmp_path)), "test")
    clean = load_dataset(DatasetChoice("imagenet-1k", data_dir=str(tmp_path)), "test")
    assert marked.labels.tolist() == tree.labels["test"]
    assert marked.description.fingerprint != clean.description.fingerprint
    transform = EvaluationTransform(8, 8)
    ours, plain = (EvaluationDataset(images, transform)[0]["pixel_values"] for images in (marked, clean))
    white = (1 - torch.tensor(transform.mean)) / torch.tensor(transform.std)
    assert torch.allclose(ours[:, 0, 0], white)
    assert torch.equal(ours[:, 1:], plain[:, 1:])
    assert marked.load_image(0).tobytes() == clean.load_image(0).tobytes()
    _watermark.cache_clear()


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "imagenet_w", None)
    write_original("imagenet-1k", tmp_path)
    with pytest.raises(ImportError, match="pip install imagenet-w"):
        load_dataset(DatasetChoice("imagenet-w", data_dir=str(tmp_path)), "test")
