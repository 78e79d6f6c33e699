"""Examples are drawn the same each time, all different."""

import numpy as np
from PIL import Image

from space_app.example_images import EXAMPLE_SIDE, draw_examples


def test_examples_are_different_pictures_and_the_same_each_time(tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    drawn = []
    for folder in folders:
        folder.mkdir()
        drawn.append(draw_examples(folder))
    first, again = ({name: np.asarray(Image.open(path)) for name, path in each.items()} for each in drawn)
    assert len(first) == 10
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert all(picture.shape == (EXAMPLE_SIDE, EXAMPLE_SIDE, 3) for picture in first.values())
    assert len({picture.tobytes() for picture in first.values()}) == 10
    assert {path.parent for path in drawn[0].values()} == {folders[0]}
