"""Each panel shows the very map of the package's function, and its words say what it is.

Each picture goes once through each model, whatever its file is called, and the memory of results has a bound.
"""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from space_app.model_cache import ModelCache
from space_app.views import (
    ATTENTION_KINDS,
    GRADIENT_KINDS,
    SHOWN_SIDE,
    TOKEN_KINDS,
    OverlaySettings,
    ResultCache,
    Selection,
    draw_attention,
    draw_gradients,
    draw_segments,
    draw_tokens,
    read_points,
)
from synco_hub.data.davis import PALETTE
from synco_hub.models import SynCoConfig, SynCoForImageClassification, image_processor
from synco_hub.visualization import (
    MAP_KINDS,
    attention_maps,
    blended,
    drawn_map,
    foreground_mask,
    overlay,
    patch_similarity,
    prepared_image,
    token_map,
    upsample,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory, save_checkpoint) -> ResultCache:
    folder = tmp_path_factory.mktemp("models")
    names = [save_checkpoint(folder / backbone, backbone) for backbone in ("vit-nano", "swin-nano")]
    directory = folder / "headed"
    config = SynCoConfig(backbone="swin-nano", num_labels=2, id2label={0: "fern", 1: "tree"})
    headed = SynCoForImageClassification(config)
    torch.nn.init.zeros_(headed.classifier.weight)
    torch.nn.init.constant_(headed.classifier.bias, 0.0)
    with torch.no_grad():
        headed.classifier.bias[1] = 1.0
    headed.save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return ResultCache(ModelCache([*names, str(directory)]))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(noise).resize((80, 60), Image.Resampling.BICUBIC).save(file)
    return str(file)


def assert_same(picture, expected):
    """Rounding may move a value over the edge of one of the colour map's 256 steps, at few places."""
    difference = np.abs(picture - expected)
    assert difference.max() < 0.02
    assert difference.mean() < 1e-5


def prepared(results, path, detail=1):
    return prepared_image(Image.open(path), results.models.get("vit-nano")[1], detail, 384)


@pytest.mark.parametrize("detail", [1, 2])
@pytest.mark.parametrize(("kind", "name"), [(0, "cls"), (2, "patch"), (3, "rollout")])
def test_attention_is_the_map_of_its_name(results, path, kind, name, detail):
    model, image = results.models.get("vit-nano")[0], prepared(results, path, detail)
    for settings in (OverlaySettings(), OverlaySettings(0.4, 0.9)):
        panel = draw_attention(results, Selection(path, "vit-nano", detail), ATTENTION_KINDS[kind], 1, settings)
        mass = None if settings.mass == 1 else settings.mass
        assert_same(panel.picture, drawn_map(name, model, image, mass, settings.strength))
        assert ("40%" in panel.description) == (mass is not None)


def test_one_head_is_that_head_and_there_are_no_more_than_there_are(results, path):
    model, image = results.models.get("vit-nano")[0], prepared(results, path)
    heads = attention_maps(model, image.pixel_values).upsampled((384, 384)).heads[0]
    for head, expected in ((1, 0), (2, 1), (16, len(heads) - 1)):
        panel = draw_attention(results, Selection(path, "vit-nano"), ATTENTION_KINDS[1], head, OverlaySettings())
        assert_same(panel.picture, overlay(image.shown, heads[expected], 0.6))
        assert panel.description == f"[CLS] attention of head {expected + 1} of {len(heads)}"


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_tokens_are_those_under_the_chosen_place(results, path, name):
    model, image = results.models.get(name)[0], prepared(results, path)
    tokens = token_map(model, image.pixel_values)
    side = tokens.shape[1]
    for across, down, column, row in ((0.0, 0.0, 0, 0), (1.0, 0.3, side - 1, int(0.3 * side))):
        panel = draw_tokens(results, Selection(path, name), TOKEN_KINDS[0], across, down, 0.5)
        similar = upsample(patch_similarity(tokens, row, column).clamp_min(0), (384, 384))[0]
        assert_same(panel.picture, overlay(image.shown, similar, 0.5))
        assert f"row {row + 1} of {side}, column {column + 1} of {side}" in panel.description
    components = draw_tokens(results, Selection(path, name), TOKEN_KINDS[1], 0.5, 0.5, 0.7)
    assert_same(components.picture, drawn_map("tokens", model, image, None, 0.7))
    mask = upsample(foreground_mask(tokens).float(), (384, 384))[0]
    ground = draw_tokens(results, Selection(path, name), TOKEN_KINDS[2], 0.5, 0.5, 0.7)
    assert_same(ground.picture, overlay(image.shown, mask, 0.7))


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_segments_are_the_classes_of_the_nearest_points(results, path, name):
    model, image = results.models.get(name)[0], prepared(results, path)
    tokens = token_map(model, image.pixel_values)
    side = tokens.shape[1]
    panel = draw_segments(results, Selection(path, name), "1 0 0\n\n2 1 0.5\n1 0.5 1", 0.5)
    places = {1: [(0, 0), (side - 1, side // 2)], 2: [(side // 2, side - 1)]}
    similar = torch.stack(
        [torch.stack([patch_similarity(tokens, *place)[0] for place in each]).amax(0) for each in places.values()]
    )
    mask = upsample(similar, (384, 384)).argmax(0).numpy()
    wanted = blended(image.shown, np.array(PALETTE[1:3], dtype=np.float32)[mask] / 255, 0.5)
    same = np.abs(panel.picture - wanted).max(axis=-1) < 0.02
    assert same.mean() > 0.99  # but for the points themselves
    assert panel.description == "patches by the nearest of 3 points of classes 1, 2"
    assert not same[0, 0]
    empty = draw_segments(results, Selection(path, name), "", 0.5)
    assert_same(empty.picture, image.shown)
    assert "no point yet" in empty.description


@pytest.mark.parametrize("line", ["1 0.5", "a b c", "0 0.5 0.5", "9 0.5 0.5", "1 1.5 0.5", "1 nan 0.5"])
def test_what_is_no_point_is_said(line):
    with pytest.raises(ValueError, match=f"'{line}' is no point: "):
        read_points(line)


@pytest.mark.parametrize(("kind", "name"), [(0, "cam"), (1, "saliency"), (2, "windows")])
def test_gradients_and_windows_of_a_swin(results, path, kind, name):
    model, image = results.models.get("swin-nano")[0], prepared(results, path)
    panel = draw_gradients(results, Selection(path, "swin-nano"), GRADIENT_KINDS[kind], OverlaySettings(strength=0.8))
    assert_same(panel.picture, drawn_map(name, model, image, None, 0.8))
    assert ("norm of the feature" in panel.description) == (name != "windows")
    assert name in MAP_KINDS


def test_the_words_name_the_predicted_class_of_a_head(results, path):
    panel = draw_gradients(results, Selection(path, "headed"), GRADIENT_KINDS[0], OverlaySettings())
    assert panel.description == "Grad-CAM of the score of predicted class tree"


def test_what_does_not_fit_a_family_is_a_hint_and_no_failure(results, path):
    swin = draw_attention(results, Selection(path, "swin-nano"), ATTENTION_KINDS[0], 1, OverlaySettings())
    vit = draw_gradients(results, Selection(path, "vit-nano"), GRADIENT_KINDS[2], OverlaySettings())
    for panel, words in ((swin, "see Gradients and windows"), (vit, "see Attention")):
        assert panel.picture is None
        assert panel.without == "hint"
        assert words in panel.description


class Models:
    """Stands for the model cache: the name is the model."""

    def __init__(self):
        self.processor = image_processor(32)

    def get(self, name):
        return name, self.processor


def brightness(model, prepared):
    return model, float(prepared.pixel_values.mean())


def darkness(model, prepared):
    return model, -float(prepared.pixel_values.mean())


@pytest.fixture
def picture(tmp_path):
    def paint(colour, name="picture.png"):
        path = tmp_path / name
        Image.new("RGB", (60, 40), colour).save(path)
        return str(path)

    return paint


def test_a_result_is_computed_once_for_what_it_depends_on(picture):
    results, red = ResultCache(Models()), picture("red")
    prepared, (model, value) = results.get(brightness, Selection(red, "a"))
    assert model == "a"
    expected = image_processor(32)(Image.new("RGB", (60, 40), "red"), return_tensors="pt").pixel_values
    assert value == pytest.approx(float(expected.mean()))
    assert torch.equal(prepared.pixel_values, expected)
    assert prepared.shown.shape == (SHOWN_SIDE, SHOWN_SIDE, 3)
    # The same bytes under another name are the same picture.
    assert results.get(brightness, Selection(picture("red", "copy.png"), "a"))[0] is prepared
    assert results.computed == 1
    for number, other in enumerate(
        [
            (brightness, Selection(red, "b")),
            (darkness, Selection(red, "a")),
            (brightness, Selection(red, "a", 2)),
            (darkness, Selection(red, "b", 2)),
        ],
        2,
    ):
        results.get(*other)
        assert results.computed == number
    # New bytes under the old name are another picture.
    assert results.get(brightness, Selection(picture("lime"), "a"))[1][1] != value


def test_the_least_recently_used_is_forgotten(picture):
    results = ResultCache(Models(), keep=2)
    paths = [picture(colour, f"{colour}.png") for colour in ("red", "lime", "blue")]
    results.get(brightness, Selection(paths[0], "a"))
    results.get(brightness, Selection(paths[1], "a"))
    results.get(brightness, Selection(paths[0], "a"))
    results.get(brightness, Selection(paths[2], "a"))
    assert (len(results), results.computed) == (2, 3)
    results.get(brightness, Selection(paths[0], "a"))
    assert results.computed == 3
    results.get(brightness, Selection(paths[1], "a"))
    assert results.computed == 4


def test_a_failure_is_not_remembered_and_threads_do_not_mix(picture):
    results = ResultCache(Models(), keep=4)
    failing = [True]

    def moody(model, prepared):
        if failing[0]:
            raise ValueError("not today")
        return "well"

    with pytest.raises(ValueError, match="not today"):
        results.get(moody, Selection(picture("red"), "a"))
    failing[0] = False
    assert results.get(moody, Selection(picture("red"), "a"))[1] == "well"
    paths = [picture((40 * number, 0, 0), f"{number}.png") for number in range(6)]
    expected = [ResultCache(Models()).get(brightness, Selection(path, "a"))[1] for path in paths]
    wrong = []

    def visit(number):
        for _ in range(10):
            if results.get(brightness, Selection(paths[number], "a"))[1] != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(results) <= 4
