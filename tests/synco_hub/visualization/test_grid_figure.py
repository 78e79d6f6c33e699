"""The grid has a row an image, a column a map, names each method once, and one colour bar."""

import numpy as np
import pytest

from synco_hub.visualization import GridColumn, grid_figure


def pictures(count: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).random((count, 6, 8, 3)).astype(np.float32))


def test_every_picture_is_in_its_place():
    columns = [
        GridColumn(method, title, pictures(3, number))
        for number, (method, title) in enumerate([("", "Input"), ("moby", "a"), ("moby", "b"), ("byol", "a")])
    ]
    figure = grid_figure(columns)
    *panels, bar = figure.axes
    assert bar.get_ylabel() == "Relative value"
    for place, axis in enumerate(panels):
        row, column = divmod(place, 4)
        np.testing.assert_array_equal(axis.images[0].get_array(), columns[column].pictures[row])
    assert [axis.get_title(loc="left") for axis in panels[:4]] == ["\nInput", "moby\na", "\nb", "byol\na"]
    figure.draw_without_rendering()
    box = panels[0].get_window_extent()
    assert box.width / box.height == pytest.approx(8 / 6, rel=0.02)


def test_ragged_or_empty_columns_are_refused():
    for columns in ([], [GridColumn("", "Input", [])], [GridColumn("", "a", pictures(n, 0)) for n in (1, 2)]):
        with pytest.raises(ValueError, match="each needs one for every row"):
            grid_figure(columns)


def test_a_note_stands_below_and_takes_nothing_from_the_pictures():
    def grid(note):
        figure = grid_figure([GridColumn("", str(number), pictures(2, number)) for number in range(6)], note=note)
        figure.draw_without_rendering()
        return figure

    plain, noted = grid(None), grid("of the norm\nof the class")
    assert noted.get_supxlabel() == "of the norm\nof the class"
    assert noted.get_figheight() > plain.get_figheight()
    before, after = (figure.axes[-2].get_window_extent() for figure in (plain, noted))
    assert after.width == pytest.approx(before.width, rel=0.05)
    assert noted._supxlabel.get_window_extent().y1 < after.y0


@pytest.mark.parametrize("rows", [1, 2, 4])
@pytest.mark.parametrize("shape", [(6, 8, 3), (8, 8, 3), (12, 6, 3)])
def test_nothing_is_cut_at_the_edge(rows, shape):
    generator = np.random.default_rng(rows)
    columns = [
        GridColumn(method, title, list(generator.random((rows, *shape)).astype(np.float32)))
        for method, title in [("", "Input"), ("synco-v2-vit-nano", "[CLS]"), ("moby-vit-nano", "Patch")]
    ]
    figure = grid_figure(columns, note="gradients of the norm")
    figure.draw_without_rendering()
    texts = [axis.title for axis in figure.axes] + [axis._left_title for axis in figure.axes] + [figure._supxlabel]
    for text in texts:
        if text.get_text().strip():
            box = text.get_window_extent()
            assert box.y1 <= figure.bbox.y1, text.get_text()
            assert box.y0 >= figure.bbox.y0, text.get_text()
