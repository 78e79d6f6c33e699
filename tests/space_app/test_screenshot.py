"""The picture of the page shows what a browser shows; without a browser, or a network, one clear error."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from space_app import screenshot
from space_app.example_images import draw_examples
from space_app.screenshot import EXAMPLE, photograph_page
from space_app.tutorial import LARGEST_BYTES, WIDTH
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


def test_the_example_is_one_of_the_page(tmp_path):
    assert EXAMPLE in draw_examples(tmp_path)


def test_without_a_browser(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no browser: none of chromium"):
        photograph_page(tmp_path / "page.jpg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_page_is_photographed(tmp_path, monkeypatch):
    if not any(shutil.which(name) for name in screenshot._BROWSERS) and not os.environ.get("CI"):
        pytest.skip("no chromium here: run `make browser` as root, or apt-get install chromium")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # put back afterwards: the page sets its own
    torch.manual_seed(0)
    for name in ("first", "second"):
        SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / name)
        image_processor(32).save_pretrained(tmp_path / name)
    path = photograph_page(tmp_path / "page.jpg", [str(tmp_path / "first"), str(tmp_path / "second")])
    with Image.open(path) as picture:
        assert picture.width == WIDTH
        right = np.asarray(picture.convert("RGB"))[:, WIDTH // 3 :]
    # Maps of the board are coloured, the page is not.
    assert (right.max(axis=2).astype(int) - right.min(axis=2) > 60).mean() > 0.05
    assert path.stat().st_size <= LARGEST_BYTES
