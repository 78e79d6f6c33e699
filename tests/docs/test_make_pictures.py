"""The README's pictures are what the commands draw and a browser shows; what is missing is one clear error."""

import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from space_app.uploads import draw_examples
from synco_hub.cli.main import build_parser
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.zoo import ZOO


@pytest.fixture(scope="module")
def make_pictures():
    path = Path(__file__).resolve().parents[2] / "docs" / "make_pictures.py"
    specification = importlib.util.spec_from_file_location("make_pictures", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def networks(tmp_path) -> list[str]:
    torch.manual_seed(0)
    for name in ("first", "second"):
        SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / name)
        image_processor(32).save_pretrained(tmp_path / name)
    return [str(tmp_path / "first"), str(tmp_path / "second")]


def test_commands_are_options_of_the_command_line_models_of_the_zoo_and_examples_of_the_page(make_pictures, tmp_path):
    options = set(build_parser("attention")._option_string_actions)
    for arguments in make_pictures.attention_commands(make_pictures.DEMO_MODELS).values():
        assert {argument for argument in arguments if argument.startswith("--")} <= options
    assert set(make_pictures.DEMO_MODELS) <= set(ZOO)
    assert {make_pictures.EXAMPLE, *make_pictures.IMAGES.values()} <= set(draw_examples(tmp_path))


@pytest.mark.slow
def test_maps_are_drawn_and_small(make_pictures, networks, tmp_path):
    make_pictures.main(["--output", str(tmp_path / "pictures"), "--models", networks[0], "--only", "attention"])
    paths = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in paths] == ["attention-compared.jpg", "attention-heads.jpg", "attention-kinds.jpg"]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width <= make_pictures.WIDTH
            assert np.asarray(picture.convert("RGB")).std() > 10
        assert path.stat().st_size <= make_pictures.LARGEST_BYTES


def test_a_model_that_is_not_there_is_said(make_pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"compared.png could not be drawn: .*moby-swin-t"):
        make_pictures.draw_attention(tmp_path / "pictures", ["moby-swin-t"])
    assert not (tmp_path / "pictures").exists()


def test_without_a_browser(make_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no browser: none of chromium"):
        make_pictures.photograph_page(tmp_path / "page.jpg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.xdist_group("browser")
def test_the_page_is_photographed(make_pictures, networks, tmp_path, monkeypatch):
    if not any(shutil.which(name) for name in make_pictures.BROWSERS) and not os.environ.get("CI"):
        pytest.skip("no chromium here: run `make browser` as root, or apt-get install chromium")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # put back afterwards: the page sets its own
    make_pictures.main(["--output", str(tmp_path), "--models", *networks, "--only", "page"])
    path = tmp_path / "space.jpg"
    with Image.open(path) as picture:
        assert picture.width == make_pictures.WIDTH
        right = np.asarray(picture.convert("RGB"))[:, make_pictures.WIDTH // 3 :]
    # Maps of the board are coloured, the page is not.
    assert (right.max(axis=2).astype(int) - right.min(axis=2) > 60).mean() > 0.05
    assert path.stat().st_size <= make_pictures.LARGEST_BYTES
