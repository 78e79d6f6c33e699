"""The README's pictures are what the commands draw, small enough for a page, and the commands are real ones."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.main import get_command

from space_app.example_images import draw_examples
from space_app.tutorial import DEMO_MODELS, IMAGES, LARGEST_BYTES, WIDTH, commands, draw
from synco_hub.cli.main import app
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.zoo import ZOO


def test_commands_are_options_of_the_command_line_and_models_of_the_zoo(tmp_path):
    options = {name for option in get_command(app).commands["attention"].params for name in option.opts}
    for arguments in commands(DEMO_MODELS).values():
        assert {argument for argument in arguments if argument.startswith("--")} <= options
    assert set(DEMO_MODELS) <= set(ZOO)
    assert set(IMAGES.values()) <= set(draw_examples(tmp_path))


@pytest.mark.slow
def test_pictures_are_drawn_and_small(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "net")
    image_processor(32).save_pretrained(tmp_path / "net")
    paths = draw(tmp_path / "pictures", [str(tmp_path / "net")])
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "pictures").iterdir())
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width <= WIDTH
            assert np.asarray(picture.convert("RGB")).std() > 10
        assert path.stat().st_size <= LARGEST_BYTES


def test_a_model_that_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"compared.png could not be drawn: .*moby-swin-t"):
        draw(tmp_path / "pictures", ["moby-swin-t"])
    assert not (tmp_path / "pictures").exists()
