"""The board grows model by model; a failure of one model stands in its file and leaves the others alone.

Similarities are compared with numpy on the model's own pooled output, neighbours with a search by hand.
"""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from space_app.board import (
    ABOUT,
    ATTENTION,
    FEATURES,
    GRADIENTS,
    MOST_NEIGHBOURS,
    TOKENS,
    Controls,
    check_names,
    describe_similarity,
    draw_panels,
    find_neighbours,
    render_board,
)
from space_app.model_cache import ModelCache
from space_app.uploads import draw_examples
from space_app.views import ResultCache
from synco_hub.models import SynCoForImageClassification


@pytest.fixture(scope="module")
def sources(tmp_path_factory, save_checkpoint) -> list[str]:
    folder = tmp_path_factory.mktemp("models")
    names = [save_checkpoint(folder / backbone, backbone) for backbone in ("vit-nano", "swin-nano")]
    return [*names, save_checkpoint(folder / "headed", kind=SynCoForImageClassification)]


@pytest.fixture
def results(sources) -> ResultCache:
    return ResultCache(ModelCache(sources))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return draw_examples(tmp_path_factory.mktemp("examples"))


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("pictures") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file)
    return str(file)


def test_models_are_drawn_one_after_the_other(results, path):
    steps = list(draw_panels(results, GRADIENTS, path, ["vit-nano", "swin-nano"], Controls()))
    seen = [[(panel.title, panel.picture is not None, panel.without) for panel in step] for step in steps]
    assert seen == [
        [("vit-nano", False, "waiting")],
        [("vit-nano", True, "hint")],
        [("vit-nano", True, "hint"), ("swin-nano", False, "waiting")],
        [("vit-nano", True, "hint"), ("swin-nano", True, "hint")],
    ]
    # Nobody waits for a model that is there.
    assert len(list(draw_panels(results, GRADIENTS, path, ["vit-nano", "swin-nano"], Controls()))) == 2


def test_one_failure_leaves_the_others_and_a_common_one_is_said_once(results, path, tmp_path):
    *_, panels = draw_panels(results, ATTENTION, path, ["no model", "vit-nano"], Controls())
    assert [panel.without for panel in panels if panel.picture is None] == ["problem"]
    assert "is not a model" in panels[0].description
    assert panels[1].picture is not None
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no picture that can be read"):
        list(draw_panels(results, TOKENS, str(broken), ["vit-nano", "swin-nano"], Controls()))
    *_, panels = draw_panels(results, ATTENTION, path, ["one", "other"], Controls())
    assert [panel.without for panel in panels] == ["problem", "problem"]


@pytest.mark.parametrize(
    "change", [{"mass": 0.3}, {"strength": 0.1}, {"detail": 2}, {"attention": "rollout through all blocks"}]
)
def test_controls_change_the_picture(results, path, change):
    *_, (before,) = draw_panels(results, ATTENTION, path, ["vit-nano"], Controls())
    *_, (after,) = draw_panels(results, ATTENTION, path, ["vit-nano"], Controls(**change))
    assert np.abs(before.picture - after.picture).mean() > 1e-3


def test_each_view_has_its_board(results, path, examples):
    def board(view, picture=path, **settings):
        *_, page = render_board(results, view, picture, ["vit-nano", "swin-nano"], Controls(**settings), examples)
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


def test_a_model_without_features_does_not_hide_the_others(results, path, examples):
    *_, page = render_board(results, FEATURES, path, ["<b>", "vit-nano"], Controls(), examples)
    assert "is not a model" in page
    assert page.count("<img") == 5
    assert "<b>" not in page


def test_names_are_one_to_three_different_ones():
    assert check_names([" a ", "b", "a", ""]) == ["a", "b"]
    for names in ([], [" "], None):
        with pytest.raises(ValueError, match="choose one to three"):
            check_names(names)
    with pytest.raises(ValueError, match="4 models chosen: at most 3"):
        check_names(["a", "b", "c", "d"])


def cosine(results, name, *paths) -> float:
    model, processor = results.models.get(name)
    network = getattr(model, "synco", model)
    with torch.no_grad():
        first, second = (
            network(**processor(Image.open(path).convert("RGB"), return_tensors="pt"))
            .pooler_output[0]
            .double()
            .numpy()
            for path in paths
        )
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


@pytest.mark.parametrize("name", ["vit-nano", "headed"])
def test_the_sentence_says_the_cosine_of_the_features(results, examples, name):
    first, second, *_ = map(str, examples.values())
    assert describe_similarity(results, name, first, first) == f"{name}: cosine similarity 1.000"
    said = describe_similarity(results, name, first, second)
    assert float(said.split()[-1]) == pytest.approx(cosine(results, name, first, second), abs=6e-4)


def test_the_nearest_are_found_in_order(results, examples):
    names, paths = list(examples), [str(path) for path in examples.values()]
    picture = paths[4]
    similarity = [cosine(results, "vit-nano", picture, path) for path in paths]
    expected = sorted(range(len(paths)), key=lambda index: -similarity[index])[:MOST_NEIGHBOURS]
    panels = find_neighbours(results, "vit-nano", picture, examples)
    assert [panel.title for panel in panels] == [names[index] for index in expected]
    assert panels[0].title == names[4]
    for panel, index in zip(panels, expected, strict=True):
        assert float(panel.description.split()[-1]) == pytest.approx(similarity[index], abs=6e-4)
        shown = np.asarray(Image.open(paths[index]).convert("RGB").crop((16, 16, 240, 240)).resize((64, 64))) / 255
        drawn = Image.fromarray((panel.picture * 255).round().astype(np.uint8)).resize((64, 64))
        assert np.corrcoef(shown.ravel(), np.asarray(drawn).ravel())[0, 1] > 0.9
