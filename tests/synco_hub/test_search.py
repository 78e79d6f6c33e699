"""What is most like a picture: against cosine similarities by numpy of vectors by the model alone."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from transformers import AutoImageProcessor

import synco_hub
from synco_hub.embedding_tables import Embeddings
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.search import draw_matches, format_found, open_images, search

QUIET = {"progress": False, "num_workers": 0}


def save_model(directory, seed=0, backbone="vit-nano"):
    torch.manual_seed(seed)
    SynCoModel(SynCoConfig(backbone)).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, twelve pictures in two classes, and their table."""
    root = tmp_path_factory.mktemp("world")
    generator = np.random.default_rng(3)
    for number in range(12):
        place = root / "pictures" / "train" / ("sea" if number % 2 else "wood") / f"{number:02d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        low = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(low).resize((50, 40), Image.Resampling.BICUBIC).save(place)
    model = save_model(root / "model")
    table = synco_hub.embed(model, root / "pictures", root / "table.parquet", **QUIET)
    return root, table


@pytest.mark.parametrize("what", ["feature", "mean"])
def test_the_most_similar_by_cosine_the_picture_itself_first(what, world, tmp_path):
    root, _ = world
    table = synco_hub.embed(root / "model", root / "pictures", tmp_path / "t.parquet", what=what, **QUIET)
    known = Embeddings.read(table)
    units = known.vectors / np.linalg.norm(known.vectors, axis=1, keepdims=True)
    places = sorted((root / "pictures").rglob("*.png"))
    found = search(places, table, count=4, device="cpu")
    assert [each.query for each in found] == [str(place) for place in places]
    for each, place in zip(found, places, strict=True):
        own = known.file_names.index(str(place.relative_to(root / "pictures")))
        cosines = units @ units[own]
        assert [match.row for match in each.matches] == np.argsort(-cosines, kind="stable")[:4].tolist()
        np.testing.assert_allclose([match.similarity for match in each.matches], np.sort(cosines)[::-1][:4], atol=1e-5)
        first = each.matches[0]
        assert (first.file_name, first.label) == (known.file_names[own], place.parent.name)
        assert first.similarity == pytest.approx(1, abs=1e-5)


def test_a_folder_of_pictures_is_asked_one_by_one_and_drawn(world, tmp_path):
    root, table = world
    folder = tmp_path / "queries"
    folder.mkdir()
    for name in ("train/sea/01.png", "train/wood/02.png"):
        shutil.copy(root / "pictures" / name, folder / name.replace("/", " "))
    found = search(folder, table, count=99, device="cpu")
    assert [len(each.matches) for each in found] == [12, 12]
    assert found[0].matches[0].file_name == "train/sea/01.png"
    assert "  1.000  train/sea/01.png  (train, sea)" in format_found(found)
    known = Embeddings.read(table)
    opened = open_images(known)
    pixels = np.asarray(opened["train", "train/sea/01.png"]())
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(root / "pictures/train/sea/01.png")))
    figure = draw_matches(found, known)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 2 * 13
    np.testing.assert_allclose(shown[1].images[0].get_array(), pixels / 255, atol=1e-6)


def test_bad_input_has_one_line(world, tmp_path):
    root, table = world
    picture = next((root / "pictures").rglob("*.png"))
    patches = synco_hub.embed(root / "model", root / "pictures", tmp_path / "p.parquet", what="patches", **QUIET)
    with pytest.raises(ValueError, match="holds the patches of images"):
        search(picture, patches)
    with pytest.raises(FileNotFoundError, match="does not exist: give an image or a folder"):
        search(tmp_path / "nothing.png", table)
    with pytest.raises(ValueError, match="count=0: give at least 1"):
        search(picture, table, count=0)
    changed = save_model(tmp_path / "changed")
    other = synco_hub.embed(changed, root / "pictures", tmp_path / "o.parquet", **QUIET)
    save_model(tmp_path / "changed", seed=1)
    with pytest.raises(ValueError, match="was made by other weights of "):
        search(picture, other)
    save_model(tmp_path / "changed")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "changed")
    processor.image_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(tmp_path / "changed")
    with pytest.raises(ValueError, match="was made with another preprocessing of "):
        search(picture, other)
    whole = parquet.read_table(table)
    parquet.write_table(whole.slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="holds no image: embed a folder that has some"):
        search(picture, tmp_path / "empty.parquet")
    place = whole.schema.get_field_index("embedding")
    shorter = pa.array([vector[:7] for vector in whole["embedding"].to_pylist()], pa.list_(pa.float32(), 7))
    cut = whole.set_column(place, "embedding", shorter).replace_schema_metadata(whole.schema.metadata)
    parquet.write_table(cut, tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match=r"holds vectors of 7 numbers, and .* gives 96: embed the images again"):
        search(picture, tmp_path / "cut.parquet")
