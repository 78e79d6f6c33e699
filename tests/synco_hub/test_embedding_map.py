"""The map of a table: principal components by another way, pictures that are the images', and a page that works."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from browsing import launch_browser
from PIL import Image
from sklearn.decomposition import PCA

import synco_hub
from synco_hub.embedding_map import project, write_map
from synco_hub.embedding_tables import Embeddings
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Sixteen pictures in two classes whose names try to end the page's script."""
    root = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained(root / "model")
    image_processor(32).save_pretrained(root / "model")
    generator = np.random.default_rng(3)
    for number in range(16):
        place = root / "pictures" / "train" / ("sea & <b>" if number % 2 else "wood") / f"{number:02d}<script>.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        low = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
        Image.fromarray(low).resize((50, 40), Image.Resampling.BICUBIC).save(place)
    quiet = {"progress": False, "num_workers": 0}
    return synco_hub.embed(root / "model", root / "pictures", root / "table.parquet", **quiet)


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_axes_are_the_first_principal_components():
    vectors = (np.random.default_rng(0).normal(size=(300, 12)) * np.arange(12, 0, -1)).astype(np.float32)
    ours, theirs = project(vectors), PCA(2, svd_solver="full").fit_transform(vectors.astype(np.float64))
    for axis in (0, 1):
        assert abs(np.corrcoef(ours[:, axis], theirs[:, axis])[0, 1]) == pytest.approx(1, abs=1e-9)
    ratio = np.ptp(ours[:, 0]) / np.ptp(ours[:, 1])
    assert ratio == pytest.approx(np.ptp(theirs[:, 0]) / np.ptp(theirs[:, 1]))
    assert np.abs(ours).max() == pytest.approx(1)


def test_the_page_holds_every_picture_and_no_foreign_tag(table, tmp_path):
    known = Embeddings.read(table)
    page = write_map(known, tmp_path / "map.html").read_text()
    found = data_of(page)
    assert len(found["points"]) == 16
    assert [entry[0] for entry in found["legend"]] == ["sea & <b>", "wood"]
    assert page.count("</script>") == 2
    assert "16 of 16 images" in page
    assert "not evidence" in page
    for point in found["points"]:
        name = point["words"].split(", ")[0]
        picture = Image.open(io.BytesIO(base64.b64decode(point["image"].split(",")[1])))
        whole = Image.open(table.parent / "pictures" / name).resize(picture.size)
        assert np.abs(np.asarray(picture, float) - np.asarray(whole, float)).mean() < 12
    few = data_of(write_map(known, tmp_path / "few.html", most=5, seed=1).read_text())
    assert len(few["points"]) == 5
    shutil.move(table.parent / "pictures", table.parent / "moved")
    try:
        with pytest.raises((OSError, ValueError), match="pictures"):
            write_map(known, tmp_path / "gone.html")
    finally:
        shutil.move(table.parent / "moved", table.parent / "pictures")
    with pytest.raises(ValueError, match="one vector of each of three images"):
        write_map(Embeddings(["a"], ["train"], None, [], np.ones((1, 3), np.float32), {}), tmp_path / "one.html")


def test_in_a_browser_hover_and_keys_show_a_picture_and_a_class_can_be_hidden(table, tmp_path):
    file = write_map(Embeddings.read(table), tmp_path / "map.html")
    data = data_of(file.read_text())
    with launch_browser() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        faults = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(file.as_uri())
        shown = page.locator("#shown p")
        first = data["points"][0]
        box = page.locator("#map").bounding_box()
        x, y = (
            box["x"] + (first["x"] + 1.05) / 2.1 * (box["width"] - 2),
            box["y"] + (1.05 - first["y"]) / 2.1 * box["height"],
        )
        page.mouse.move(x, y)
        assert shown.inner_text() == first["words"]
        assert page.locator("#shown img").get_attribute("src") == first["image"]

        def walk():
            page.locator("#map").focus()
            for _ in data["points"]:
                page.keyboard.press("ArrowRight")
                yield shown.inner_text()

        assert set(walk()) == {point["words"] for point in data["points"]}
        name, _, hidden = data["legend"][0]
        page.locator("#legend input").first.uncheck()
        assert shown.count() == 0 or name not in shown.inner_text()
        left = {point["words"] for point in data["points"] if point["label"] != hidden}
        assert len(left) == 8
        assert set(walk()) == left
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert faults == []
