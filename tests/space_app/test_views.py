"""Each panel shows the very map of the package's function, and its words say what it is."""

import numpy as np
import pytest
import torch
from PIL import Image

from space_app.looks import Looks
from space_app.model_cache import ModelCache
from space_app.views import (
    ATTENTION_KINDS,
    GRADIENT_KINDS,
    TOKEN_KINDS,
    Drawing,
    Picked,
    attention_panel,
    gradient_panel,
    token_panel,
)
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from synco_hub.visualization import (
    MAP_KINDS,
    attention_maps,
    drawn_map,
    foreground_mask,
    overlay,
    patch_similarity,
    prepared_image,
    token_map,
    upsample,
)


@pytest.fixture(scope="module")
def looks(tmp_path_factory) -> Looks:
    names = []
    for backbone in ("vit-nano", "swin-nano"):
        torch.manual_seed(0)
        directory = tmp_path_factory.mktemp("models") / backbone
        SynCoModel(SynCoConfig(backbone=backbone)).save_pretrained(directory)
        image_processor(32).save_pretrained(directory)
        names.append(str(directory))
    directory = tmp_path_factory.mktemp("models") / "headed"
    config = SynCoConfig(backbone="swin-nano", num_labels=2, id2label={0: "fern", 1: "tree"})
    headed = SynCoForImageClassification(config)
    torch.nn.init.zeros_(headed.classifier.weight)
    torch.nn.init.constant_(headed.classifier.bias, 0.0)
    with torch.no_grad():
        headed.classifier.bias[1] = 1.0
    headed.save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return Looks(ModelCache([*names, str(directory)]))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    place = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC).save(place)
    return str(place)


def assert_same(picture, expected):
    """Rounding may move a value over the edge of one of the colour map's 256 steps, at few places."""
    difference = np.abs(picture - expected)
    assert difference.max() < 0.02
    assert difference.mean() < 1e-5


def prepared(looks, path, detail=1):
    return prepared_image(Image.open(path), looks.models.get("vit-nano")[1], detail, 384)


@pytest.mark.parametrize("detail", [1, 2])
@pytest.mark.parametrize(("kind", "name"), [(0, "cls"), (2, "patch"), (3, "rollout")])
def test_attention_is_the_map_of_its_name(looks, path, kind, name, detail):
    model, image = looks.models.get("vit-nano")[0], prepared(looks, path, detail)
    for drawing in (Drawing(), Drawing(0.4, 0.9)):
        panel = attention_panel(looks, Picked(path, "vit-nano", detail), ATTENTION_KINDS[kind], 1, drawing)
        mass = None if drawing.mass == 1 else drawing.mass
        assert_same(panel.picture, drawn_map(name, model, image, mass, drawing.strength))
        assert ("40%" in panel.description) == (mass is not None)


def test_one_head_is_that_head_and_there_are_no_more_than_there_are(looks, path):
    model, image = looks.models.get("vit-nano")[0], prepared(looks, path)
    heads = attention_maps(model, image.pixel_values).upsampled((384, 384)).heads[0]
    for head, expected in ((1, 0), (2, 1), (16, len(heads) - 1)):
        panel = attention_panel(looks, Picked(path, "vit-nano"), ATTENTION_KINDS[1], head, Drawing())
        assert_same(panel.picture, overlay(image.shown, heads[expected], 0.6))
        assert panel.description == f"[CLS] attention of head {expected + 1} of {len(heads)}"


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_tokens_are_those_under_the_chosen_place(looks, path, name):
    model, image = looks.models.get(name)[0], prepared(looks, path)
    tokens = token_map(model, image.pixel_values)
    side = tokens.shape[1]
    for across, down, column, row in ((0.0, 0.0, 0, 0), (1.0, 0.3, side - 1, int(0.3 * side))):
        panel = token_panel(looks, Picked(path, name), TOKEN_KINDS[0], across, down, 0.5)
        similar = upsample(patch_similarity(tokens, row, column).clamp_min(0), (384, 384))[0]
        assert_same(panel.picture, overlay(image.shown, similar, 0.5))
        assert f"row {row + 1} of {side}, column {column + 1} of {side}" in panel.description
    components = token_panel(looks, Picked(path, name), TOKEN_KINDS[1], 0.5, 0.5, 0.7)
    assert_same(components.picture, drawn_map("tokens", model, image, None, 0.7))
    mask = upsample(foreground_mask(tokens).float(), (384, 384))[0]
    ground = token_panel(looks, Picked(path, name), TOKEN_KINDS[2], 0.5, 0.5, 0.7)
    assert_same(ground.picture, overlay(image.shown, mask, 0.7))


@pytest.mark.parametrize(("kind", "name"), [(0, "cam"), (1, "saliency"), (2, "windows")])
def test_gradients_and_windows_of_a_swin(looks, path, kind, name):
    model, image = looks.models.get("swin-nano")[0], prepared(looks, path)
    panel = gradient_panel(looks, Picked(path, "swin-nano"), GRADIENT_KINDS[kind], Drawing(strength=0.8))
    assert_same(panel.picture, drawn_map(name, model, image, None, 0.8))
    assert ("norm of the feature" in panel.description) == (name != "windows")
    assert name in MAP_KINDS


def test_the_words_name_the_predicted_class_of_a_head(looks, path):
    panel = gradient_panel(looks, Picked(path, "headed"), GRADIENT_KINDS[0], Drawing())
    assert panel.description == "Grad-CAM of the score of predicted class tree"


def test_what_does_not_fit_a_family_is_a_hint_and_no_failure(looks, path):
    swin = attention_panel(looks, Picked(path, "swin-nano"), ATTENTION_KINDS[0], 1, Drawing())
    vit = gradient_panel(looks, Picked(path, "vit-nano"), GRADIENT_KINDS[2], Drawing())
    for panel, words in ((swin, "see Gradients and windows"), (vit, "see Attention")):
        assert panel.picture is None
        assert panel.without == "hint"
        assert words in panel.description
