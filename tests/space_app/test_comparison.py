"""Similarities against numpy on the model's own pooled output; neighbours against a search by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from space_app.comparison import NEAREST, nearest_panels, similarity_sentence
from space_app.example_images import draw_examples
from space_app.looks import Looks
from space_app.model_cache import ModelCache
from space_app.views import Picked
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor


@pytest.fixture(scope="module")
def looks(tmp_path_factory) -> Looks:
    names = []
    for name, kind in (("vit", SynCoModel), ("headed", SynCoForImageClassification)):
        torch.manual_seed(0)
        directory = tmp_path_factory.mktemp("models") / name
        kind(SynCoConfig(backbone="vit-nano")).save_pretrained(directory)
        image_processor(32).save_pretrained(directory)
        names.append(str(directory))
    return Looks(ModelCache(names))


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return draw_examples(tmp_path_factory.mktemp("examples"))


def cosine(looks, name, *paths) -> float:
    model, processor = looks.models.get(name)
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


@pytest.mark.parametrize("name", ["vit", "headed"])
def test_the_sentence_says_the_cosine_of_the_features(looks, examples, name):
    first, second, *_ = map(str, examples.values())
    assert similarity_sentence(looks, Picked(first, name), first) == f"{name}: cosine similarity 1.000"
    said = similarity_sentence(looks, Picked(first, name), second)
    assert float(said.split()[-1]) == pytest.approx(cosine(looks, name, first, second), abs=6e-4)


def test_the_nearest_are_found_in_order(looks, examples):
    names, paths = list(examples), [str(path) for path in examples.values()]
    picture = paths[4]
    similarity = [cosine(looks, "vit", picture, path) for path in paths]
    expected = sorted(range(len(paths)), key=lambda index: -similarity[index])[:NEAREST]
    panels = nearest_panels(looks, Picked(picture, "vit"), examples)
    assert [panel.title for panel in panels] == [names[index] for index in expected]
    assert panels[0].title == names[4]
    for panel, index in zip(panels, expected, strict=True):
        assert float(panel.description.split()[-1]) == pytest.approx(similarity[index], abs=6e-4)
        shown = np.asarray(Image.open(paths[index]).convert("RGB").crop((16, 16, 240, 240)).resize((64, 64))) / 255
        drawn = Image.fromarray((panel.picture * 255).round().astype(np.uint8)).resize((64, 64))
        assert np.corrcoef(shown.ravel(), np.asarray(drawn).ravel())[0, 1] > 0.9
