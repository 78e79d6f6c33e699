import json
import shutil

import numpy as np
import pytest
import torch
from command_line import invoke
from PIL import Image

from synco_hub.cli.duplicates import (
    CELLS_A_ROW,
    FILES_DRAWN,
    ROWS_A_SHEET,
    SHEETS,
    draw_duplicates,
    find,  # noqa: F401 - called below
    format_duplicates,
    lay_out,
)
from synco_hub.data import load_dataset
from synco_hub.data.duplicates import DuplicateGroup, Duplicates, find_duplicates
from synco_hub.data.picture_matching import Calibration
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import DatasetChoice


@pytest.fixture
def pictures(tmp_path):
    """Noise of low frequency: a picture in both splits, one compressed, one that is there ten times."""
    torch.manual_seed(0)
    for number, low in enumerate(torch.randint(0, 256, (8, 7, 9, 3), dtype=torch.uint8).numpy()):
        place = tmp_path / "pictures" / ("test" if number % 2 else "train") / "a" / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(low).resize((90, 70), Image.Resampling.BICUBIC).save(place)
    root = tmp_path / "pictures"
    shutil.copy(root / "train/a/0.png", root / "test/a/same.png")
    Image.open(root / "test/a/1.png").save(root / "train/a/like.jpg", quality=60)
    for number in range(9):
        shutil.copy(root / "train/a/4.png", root / f"train/a/again {number}.png")
    return root


def test_every_file_is_compared_and_groups_are_printed_written_and_drawn(pictures, tmp_path):
    places = ["--output", str(tmp_path / "found.json"), "--figure", str(tmp_path / "found.png")]
    (pictures / "test" / "broken.png").write_bytes(b"no image")
    ended = invoke(["data", "duplicates", str(pictures), *places, "--max-bad-fraction", "0.1"])
    assert ended.exit_code == 0, ended.exception
    assert "20 images: 3 groups of duplicates (2 of equal files, 0 of equal pixels, 1 of near ones)" in ended.output
    assert "1 unreadable, left out: test/broken.png" in ended.output
    assert "  bytes: test/a/same.png, train/a/0.png" in ended.output
    assert "train/a/again 3.png, train/a/again 4.png, and 4 more" in ended.output
    written = json.loads((tmp_path / "found.json").read_text())
    groups = {frozenset(group) for group in written["groups"]}
    again = {f"train/a/again {number}.png" for number in range(9)}
    assert groups == {
        frozenset({"test/a/same.png", "train/a/0.png"}),
        frozenset({"test/a/1.png", "train/a/like.jpg"}),
        frozenset({"train/a/4.png", *again}),
    }
    assert [detail["kind"] for detail in written["details"]].count("near") == 1
    assert written["images"] == 20
    assert written["skipped_files"] == ["test/broken.png"]
    assert written["flat"] == written["families"] == []
    assert Image.open(tmp_path / "found.png").width > 200


def test_the_figure_has_groups_side_by_side_and_says_how_many_files_are_not_shown(pictures):
    images = load_dataset(DatasetChoice(str(pictures)), "all")
    found = find_duplicates(images, progress=False)
    (figure,) = draw_duplicates(found, images.load_image)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == sum(min(len(group.members), FILES_DRAWN) for group in found.groups)
    words = [text.get_text() for text in figure.texts]
    assert "bytes, 4 more" in words
    assert "groups of duplicates: 1 to 3 of 3" in words
    # Side by side: 6 + 2 + 2 files are one row.
    assert len({round(axis.get_position().y0, 3) for axis in shown}) == 1
    places = [axis.get_position() for axis in shown]
    assert all(0 <= place.x0 < place.x1 <= 1 and 0 <= place.y0 < place.y1 <= 1 for place in places)
    nothing = find_duplicates(load_dataset(DatasetChoice(str(pictures)), "test"), progress=False)
    assert nothing.groups == []
    (figure,) = draw_duplicates(nothing, images.load_image)
    assert figure.texts[0].get_text() == "groups of duplicates: none"
    assert "0 groups of duplicates" in format_duplicates(nothing)


def test_many_groups_make_several_sheets_of_one_size_and_what_is_left_out_is_said():
    generator = np.random.default_rng(0)
    sizes = generator.integers(2, 12, 2000)
    groups = [DuplicateGroup(tuple(range(size)), "near", 0.9, False) for size in sizes]
    sheets = lay_out(groups)
    laid = [entry for sheet in sheets for entry in sheet]
    assert [entry[0] for entry in laid] == groups[: len(laid)]
    assert len(sheets) == SHEETS
    for sheet in sheets:
        cells = [
            (row, column + k) for group, row, column in sheet for k in range(min(len(group.members), FILES_DRAWN))
        ]
        assert len(cells) == len(set(cells))
        assert max(row for row, _ in cells) == ROWS_A_SHEET - 1
        assert max(column for _, column in cells) < CELLS_A_ROW
    found = Duplicates(["ä $x$"] * 12, groups, [], [], Calibration(0.9, 1.0, 1), [])
    first = next(draw_duplicates(found, lambda _: Image.new("RGB", (4, 3))))
    said = first.texts[0].get_text()
    left = len(groups) - len(laid)
    assert said == f"groups of duplicates: 1 to {len(sheets[0])} of 2000, sheet 1 of 10; the last {left} are not drawn"
    assert max(first.get_size_inches()) < 20


def test_a_model_adds_candidates_and_two_sides_have_their_names(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    SynCoModel(SynCoConfig("vit-nano")).save_pretrained("model")
    image_processor(32).save_pretrained("model")
    words = ["data", "duplicates", "pictures/train", "pictures/test", "--output", "found.json"]
    ended = invoke([*words, "--model", "model", "--num-workers", "1"])
    assert ended.exit_code == 0, ended.exception
    with_model = json.loads((tmp_path / "found.json").read_text())["groups"]
    assert sorted(sorted(group) for group in with_model) == [
        ["pictures/test/a/1.png", "pictures/train/a/like.jpg"],
        ["pictures/test/a/same.png", "pictures/train/a/0.png"],
    ]
    assert invoke(words).exit_code == 0
    assert json.loads((tmp_path / "found.json").read_text())["groups"] == with_model


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pictures", "--output", "found.txt"], "--output found.txt: does not end in .json"),
        (["pictures", "--figure", "found.gif"], "--figure found.gif: does not end in .png or .pdf"),
        (["pictures", "empty"], "empty"),
        (["pictures", "--num-workers", "0"], "--num-workers 0: give at least 1"),
        ([], "required: SOURCE"),
    ],
)
def test_bad_input_has_one_line(words, said, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    ended = invoke(["data", "duplicates", *words])
    assert ended.exit_code != 0
    assert said in str(ended.exception)
    assert "\n" not in str(ended.exception)
