import hashlib
import math
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from synco_hub.data import UnreadableImageError
from synco_hub.data.revisited_retrieval import RetrievalData, RetrievalQuery
from synco_hub.evaluation import retrieval
from synco_hub.evaluation.dense_features import pixel_values
from synco_hub.evaluation.resume import ResumableFolder
from synco_hub.evaluation.retrieval import (
    RetrievalInput,
    SearchedImage,
    compute_multi_scale_features,
    compute_retrieval_vectors,
    crop_seen_image,
    score_retrieval,
)
from synco_hub.feature_pooling import find_feature_rule
from synco_hub.models import SynCoConfig, SynCoModel
from synco_hub.settings import RetrievalSettings


def data(*grades):
    queries = tuple(RetrievalQuery(Path("q.jpg"), (0, 0, 1, 1), grade) for grade in grades)
    return RetrievalData("roxford5k", tuple(Path(f"{i}.jpg") for i in range(6)), queries, hashlib.md5(b"").hexdigest())


FIRST = {"easy": (0,), "hard": (2,), "junk": (1,)}


def test_three_setups_of_one_ranking():
    similarities = torch.tensor([[6.0, 5, 4, 3, 2, 1]])
    found = score_retrieval(similarities, data(FIRST)).metrics
    # Easy: image 0 is first. Medium: 0 and 2 are first once junk 1 is gone. Hard: 0 and 1 are gone, 2 is first.
    assert {name: value for name, value in found.items() if name.startswith("map")} == {
        "map_easy": 100.0,
        "map_medium": 100.0,
        "map_hard": 100.0,
    }
    behind = score_retrieval(similarities.flip(1), data(FIRST)).metrics
    # Reversed: 5 4 3 2 1 0. Easy: 0 stands behind 5 4 3, so (0 + 1/4) / 2. Hard: 2 stands behind 5 4 3.
    assert behind["map_easy"] == behind["map_hard"] == pytest.approx(12.5)
    # Medium: 2 at the fourth place, 0 at the fifth.
    assert behind["map_medium"] == pytest.approx(100 * ((0 + 1 / 4) / 2 + (1 / 4 + 2 / 5) / 2) / 2)
    assert behind["mp1_medium"] == 0.0
    assert behind["mp5_medium"] == behind["mp10_medium"] == pytest.approx(40.0)


def test_empty_queries_are_skipped_and_counted():
    empty = {"easy": (), "hard": (3,), "junk": ()}
    scores = score_retrieval(torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 2), data(FIRST, empty))
    assert scores.queries == {"easy": 1, "medium": 2, "hard": 2}
    assert scores.metrics["map_easy"] == 100.0
    only_hard = score_retrieval(torch.rand(1, 6), data(empty))
    assert set(only_hard.queries.values()) == {0, 1}
    assert not any(name.endswith("easy") for name in only_hard.metrics)
    with pytest.raises(ValueError, match="no query of roxford5k"):
        score_retrieval(torch.rand(1, 6), data({"easy": (), "hard": (), "junk": (0,)}))


QUIET = RetrievalSettings(num_workers=0, progress=False)
NOTHING_KEPT = ResumableFolder(None, {})


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
    found = compute_retrieval_vectors(network, images[:1], form, QUIET, "database", NOTHING_KEPT)
    pixels = pixel_values(crop_seen_image(images[0], form), form.mean, form.std)  # 48 x 40
    sizes = [(48, 40), (33, 28), (24, 20)]
    total = 0
    for size, (rows, columns) in zip(sizes, [(48, 40), (32, 24), (24, 16)], strict=True):
        smaller = F.interpolate(pixels, size=size, mode="bilinear")[..., :rows, :columns]
        total = total + network(smaller, interpolate_pos_encoding=True).pooler_output
    assert torch.allclose(found, F.normalize(total, dim=1), atol=1e-5)
    one = compute_multi_scale_features(network, pixels, find_feature_rule(network), [1.0])
    assert torch.allclose(one, network(pixels, interpolate_pos_encoding=True).pooler_output, atol=1e-6)


def test_a_query_s_box_keeps_the_scale_of_its_image(tmp_path):
    picture = Image.new("RGB", (200, 100), "blue")
    picture.paste((255, 0, 0), (20, 10, 60, 90))
    picture.save(tmp_path / "q.png")
    query = SearchedImage(tmp_path / "q.png", (20.2, 9.8, 59.9, 90.0))
    assert crop_seen_image(query, RetrievalInput(max_side=None)).size == (40, 80)
    assert set(crop_seen_image(query, RetrievalInput(max_side=None)).getdata()) == {(255, 0, 0)}
    # Half of the whole image's longest side, so half of the box.
    assert crop_seen_image(query, RetrievalInput(max_side=100)).size == (20, 40)
    assert crop_seen_image(query, RetrievalInput(max_side=100, crop_queries=False)).size == (100, 50)
    assert crop_seen_image(query, RetrievalInput(max_side=4000)).size == (40, 80)
    with pytest.raises(ValueError, match="lies outside"):
        crop_seen_image(SearchedImage(tmp_path / "q.png", (300.0, 0.0, 400.0, 50.0)), RetrievalInput())


def test_a_killed_extraction_goes_on_with_the_missing_block(network, images, tmp_path, monkeypatch):
    monkeypatch.setattr(retrieval, "BLOCK", 2)
    form, folder = RetrievalInput(scales=(1.0,)), tmp_path / "kept"
    kept = ResumableFolder(folder, {"weights": "x"})
    whole = compute_retrieval_vectors(network, images, form, QUIET, "database", NOTHING_KEPT)
    broken = [*images[:3], SearchedImage(tmp_path / "gone.png"), images[4]]
    with pytest.raises(UnreadableImageError, match=r"gone\.png"):
        compute_retrieval_vectors(network, broken, form, QUIET, "database", kept)
    assert [file.name for file in folder.glob("database-*")] == ["database-000000.safetensors"]
    read = []
    seen = retrieval.crop_seen_image
    monkeypatch.setattr(retrieval, "crop_seen_image", lambda image, how: read.append(image) or seen(image, how))
    assert torch.equal(compute_retrieval_vectors(network, images, form, QUIET, "database", kept), whole)
    assert read == images[2:]  # what is done is not computed again
    assert torch.allclose(whole.norm(dim=1), torch.ones(5))
    del read[:]
    Image.new("RGB", (24, 24), "green").save(images[1].file)  # while it is the same
    changed = compute_retrieval_vectors(network, images, form, QUIET, "database", kept)
    assert read == images[:2]
    assert torch.equal(changed[[0, 2, 3, 4]], whole[[0, 2, 3, 4]])
    assert not torch.equal(changed[1], whole[1])
    (folder / "database-000002.safetensors").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="delete it"):
        compute_retrieval_vectors(network, images, form, QUIET, "database", kept)


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
        compute_retrieval_vectors(network, images, RetrievalInput(), QUIET, "database", NOTHING_KEPT)
