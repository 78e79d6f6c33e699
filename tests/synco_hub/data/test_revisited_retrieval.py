import pickle

import numpy as np
import pytest
from PIL import Image

from synco_hub.data.revisited_retrieval import load_retrieval_data

GRADES = {"bbx": np.array([1.0, 2.0, 6.5, 7.0]), "easy": [0], "hard": np.array([2, 3]), "junk": []}


def benchmark(root, ground_truth=None, name="roxford5k"):
    folder = root / name
    (folder / "jpg").mkdir(parents=True)
    images, queries = [f"image_{index}" for index in range(5)], ["query_0"]
    for image in images + queries:
        Image.new("RGB", (8, 8)).save(folder / "jpg" / f"{image}.jpg")
    value = {"imlist": images, "qimlist": queries, "gnd": [GRADES]} if ground_truth is None else ground_truth
    (folder / f"gnd_{name}.pkl").write_bytes(pickle.dumps(value, 2))
    return folder


@pytest.mark.parametrize("inside", [False, True])
def test_the_official_layout_is_read(tmp_path, inside):
    folder = benchmark(tmp_path)
    data = load_retrieval_data(folder if inside else tmp_path, "roxford5k")
    assert [file.name for file in data.database] == [f"image_{index}.jpg" for index in range(5)]
    assert data.queries[0].box == (1.0, 2.0, 6.5, 7.0)
    assert data.targets("easy").tolist() == [[1, 0, -1, -1, 0]]
    assert data.targets("medium").tolist() == [[1, 0, 1, 1, 0]]
    assert data.targets("hard").tolist() == [[-1, 0, 1, 1, 0]]
    assert not data.is_official


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gnd_roxford5k\.pkl"):
        load_retrieval_data(tmp_path, "roxford5k")
    folder = benchmark(tmp_path)
    (folder / "jpg" / "image_3.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 6 images are missing.*image_3.jpg"):
        load_retrieval_data(tmp_path, "roxford5k")
    with pytest.raises(ValueError, match="use one of roxford5k, rparis6k"):
        load_retrieval_data(tmp_path, "oxford")


class Payload:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": Payload()}, "refused and nothing in it was run"),
        ({"gnd": [{**GRADES, "easy": [7]}]}, "names image 7 of 5"),
        ({"gnd": [{**GRADES, "bbx": [5, 5, 1, 1]}]}, "no area"),
        ({"gnd": [{"easy": [1]}]}, "KeyError"),
        ({"gnd": []}, "not in the layout"),
        ({"imlist": ["../../etc/passwd"]}, "no name of an image"),
    ],
)
def test_strange_ground_truths_are_refused(tmp_path, change, message, capsys):
    images = [f"image_{index}" for index in range(5)]
    benchmark(tmp_path, {"imlist": images, "qimlist": ["query_0"], "gnd": [GRADES], **change})
    with pytest.raises(ValueError, match=message):
        load_retrieval_data(tmp_path, "roxford5k")
    assert capsys.readouterr().out == ""
