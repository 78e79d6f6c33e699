"""The board grows model by model; a failure of one model stands in its place and leaves the others alone."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from space_app.board import ABOUT, ATTENTION, FEATURES, GRADIENTS, TOKENS, Controls, board_html, board_panels
from space_app.board import checked_names as checked
from space_app.example_images import draw_examples
from space_app.looks import Looks
from space_app.model_cache import ModelCache
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[str]:
    names = []
    for backbone in ("vit-nano", "swin-nano"):
        torch.manual_seed(0)
        directory = tmp_path_factory.mktemp("models") / backbone
        SynCoModel(SynCoConfig(backbone=backbone)).save_pretrained(directory)
        image_processor(32).save_pretrained(directory)
        names.append(str(directory))
    return names


@pytest.fixture
def looks(sources) -> Looks:
    return Looks(ModelCache(sources))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return draw_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    place = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(place)
    return str(place)


def test_models_are_drawn_one_after_the_other(looks, path):
    steps = list(board_panels(looks, GRADIENTS, path, ["vit-nano", "swin-nano"], Controls()))
    seen = [[(panel.title, panel.picture is not None, panel.without) for panel in step] for step in steps]
    assert seen == [
        [("vit-nano", False, "waiting")],
        [("vit-nano", True, "hint")],
        [("vit-nano", True, "hint"), ("swin-nano", False, "waiting")],
        [("vit-nano", True, "hint"), ("swin-nano", True, "hint")],
    ]
    # Nobody waits for a model that is there.
    assert len(list(board_panels(looks, GRADIENTS, path, ["vit-nano", "swin-nano"], Controls()))) == 2


def test_one_failure_leaves_the_others_and_a_common_one_is_said_once(looks, path, tmp_path):
    *_, panels = board_panels(looks, ATTENTION, path, ["no model", "vit-nano"], Controls())
    assert [panel.without for panel in panels if panel.picture is None] == ["problem"]
    assert "is not a model" in panels[0].description
    assert panels[1].picture is not None
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no picture that can be read"):
        list(board_panels(looks, TOKENS, str(broken), ["vit-nano", "swin-nano"], Controls()))
    *_, panels = board_panels(looks, ATTENTION, path, ["one", "other"], Controls())
    assert [panel.without for panel in panels] == ["problem", "problem"]


@pytest.mark.parametrize(
    "change", [{"mass": 0.3}, {"strength": 0.1}, {"detail": 2}, {"attention": "rollout through all blocks"}]
)
def test_controls_change_the_picture(looks, path, change):
    *_, (before,) = board_panels(looks, ATTENTION, path, ["vit-nano"], Controls())
    *_, (after,) = board_panels(looks, ATTENTION, path, ["vit-nano"], Controls(**change))
    assert np.abs(before.picture - after.picture).mean() > 1e-3


def test_each_view_has_its_board(looks, path, examples):
    def board(view, picture=path, **settings):
        *_, page = board_html(looks, view, picture, ["vit-nano", "swin-nano"], Controls(**settings), examples)
        return page

    assert board(ABOUT) == ""
    assert "Upload a picture" in board(TOKENS, None)
    assert board(TOKENS).count("<img") == 2
    assert "clickable" in board(TOKENS)
    assert "clickable" not in board(GRADIENTS)
    assert board(ATTENTION).count("<img") == 1
    features = board(FEATURES)
    assert features.count("<img") == 10
    assert re.findall("<h3>([^<]*)</h3>", features) == ["vit-nano", "swin-nano"]
    assert board(FEATURES, other=path).count("cosine similarity 1.000") == 2


def test_a_model_without_features_does_not_hide_the_others(looks, path, examples):
    *_, page = board_html(looks, FEATURES, path, ["<b>", "vit-nano"], Controls(), examples)
    assert "is not a model" in page
    assert page.count("<img") == 5
    assert "<b>" not in page


def test_names_are_one_to_three_different_ones():
    assert checked([" a ", "b", "a", ""]) == ["a", "b"]
    for names in ([], [" "], None):
        with pytest.raises(ValueError, match="choose one to three"):
            checked(names)
    with pytest.raises(ValueError, match="4 models chosen: at most 3"):
        checked(["a", "b", "c", "d"])
