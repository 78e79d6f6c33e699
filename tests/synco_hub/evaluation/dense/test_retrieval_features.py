import math

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from synco_hub.data import UnreadableImageError
from synco_hub.evaluation.dense import retrieval_features
from synco_hub.evaluation.dense.any_size import pixel_values
from synco_hub.evaluation.dense.retrieval_features import (
    RetrievalInput,
    SearchedImage,
    multi_scale_features,
    retrieval_vectors,
    seen_image,
)
from synco_hub.feature_adapter import feature_rule
from synco_hub.features import ExtractionSettings
from synco_hub.models import SynCoConfig, SynCoModel

QUIET = ExtractionSettings(progress=False)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).eval()


@pytest.fixture
def images(tmp_path):
    paths = []
    for index in range(5):
        path = tmp_path / f"{index}.png"
        Image.effect_noise((40 + 8 * index, 48), 80).convert("RGB").save(path)
        paths.append(SearchedImage(path))
    return paths


def test_scales_are_averaged_before_the_norm(network, images):
    form = RetrievalInput(scales=(1.0, 1 / math.sqrt(2), 0.5))
    found = retrieval_vectors(network, images[:1], form, QUIET, "database")
    pixels = pixel_values(seen_image(images[0], form), form.mean, form.std)  # 48 x 40
    sizes = [(48, 40), (33, 28), (24, 20)]
    total = 0
    for size, (rows, columns) in zip(sizes, [(48, 40), (32, 24), (24, 16)], strict=True):
        smaller = F.interpolate(pixels, size=size, mode="bilinear")[..., :rows, :columns]
        total = total + network(smaller, interpolate_pos_encoding=True).pooler_output
    assert torch.allclose(found, F.normalize(total, dim=1), atol=1e-5)
    one = multi_scale_features(network, pixels, feature_rule(network), [1.0])
    assert torch.allclose(one, network(pixels, interpolate_pos_encoding=True).pooler_output, atol=1e-6)


def test_a_query_s_box_keeps_the_scale_of_its_image(tmp_path):
    picture = Image.new("RGB", (200, 100), "blue")
    picture.paste((255, 0, 0), (20, 10, 60, 90))
    picture.save(tmp_path / "q.png")
    query = SearchedImage(tmp_path / "q.png", (20.2, 9.8, 59.9, 90.0))
    assert seen_image(query, RetrievalInput(max_side=None)).size == (40, 80)
    assert set(seen_image(query, RetrievalInput(max_side=None)).getdata()) == {(255, 0, 0)}
    # Half of the whole image's longest side, so half of the box.
    assert seen_image(query, RetrievalInput(max_side=100)).size == (20, 40)
    assert seen_image(query, RetrievalInput(max_side=100, crop_queries=False)).size == (100, 50)
    assert seen_image(query, RetrievalInput(max_side=4000)).size == (40, 80)
    with pytest.raises(ValueError, match="lies outside"):
        seen_image(SearchedImage(tmp_path / "q.png", (300.0, 0.0, 400.0, 50.0)), RetrievalInput())


def test_a_killed_extraction_goes_on_with_the_missing_block(network, images, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval_features, "BLOCK", 2)
    form, folder = RetrievalInput(scales=(1.0,)), tmp_path / "kept"
    folder.mkdir()
    whole = retrieval_vectors(network, images, form, QUIET, "database")
    broken = [*images[:3], SearchedImage(tmp_path / "gone.png"), images[4]]
    with pytest.raises(UnreadableImageError, match=r"gone\.png"):
        retrieval_vectors(network, broken, form, QUIET, "database", folder)
    assert [file.name for file in folder.iterdir()] == ["database-000000.safetensors"]
    read = []
    seen = retrieval_features.seen_image
    monkeypatch.setattr(retrieval_features, "seen_image", lambda image, how: read.append(image) or seen(image, how))
    assert torch.equal(retrieval_vectors(network, images, form, QUIET, "database", folder), whole)
    assert read == images[2:]  # what is done is not computed again
    assert torch.allclose(whole.norm(dim=1), torch.ones(5))
    del read[:]
    Image.new("RGB", (24, 24), "green").save(images[1].file)  # while it is the same
    changed = retrieval_vectors(network, images, form, QUIET, "database", folder)
    assert read == images[:2]
    assert torch.equal(changed[[0, 2, 3, 4]], whole[[0, 2, 3, 4]])
    assert not torch.equal(changed[1], whole[1])
    (folder / "database-000002.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="delete it"):
        retrieval_vectors(network, images, form, QUIET, "database", folder)


def test_bad_settings_and_features(network, images):
    for wrong, message in (
        ({"max_side": 0}, "max_side=0"),
        ({"scales": ()}, "scales="),
        ({"scales": (-1.0,)}, "scales="),
    ):
        with pytest.raises(ValueError, match=message):
            RetrievalInput(**wrong)
    network.backbone.norm.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite, first at index 0"):
        retrieval_vectors(network, images, RetrievalInput(), QUIET, "database")
