import itertools

import numpy as np
import pytest

from synco_hub.data.views.draw_row import BLENDS, DRAW_ROW, draw_row
from synco_hub.data.views.two_view_parameters import TwoViewParameters
from synco_hub.data.views.view_draw import ColorJitterDraw, ViewDraw, draw_view

STILL = ViewDraw(0, 0, 32, 32, False, None, False, None, False)


def named(draw: ViewDraw) -> dict[str, float]:
    return dict(zip(DRAW_ROW, draw_row(draw), strict=True))


@pytest.mark.parametrize("order", itertools.permutations(range(4)))
def test_the_steps_read_back_in_their_order(order: tuple[int, ...]) -> None:
    jitter = ColorJitterDraw(1.3, 0.7, 0.9, 0.05, order)
    row = named(STILL._replace(color_jitter=jitter))
    steps = []
    for number in range(BLENDS + 1):
        if number == row["blends_before_hue"]:
            steps.append((3, row["hue"]))
        if number < BLENDS:
            kind = {(0, 0): 0, (0, 1): 1, (1, 0): 2}[row[f"gray_share_{number}"], row[f"mean_share_{number}"]]
            steps.append((kind, row[f"factor_{number}"]))
    assert steps == [(step, jitter[step]) for step in order]


def test_nothing_drawn() -> None:
    row = named(STILL)
    assert [row[f"factor_{number}"] for number in range(BLENDS)] == [1, 1, 1]
    rest = {name: value for name, value in row.items() if not name.startswith(("factor", "blends"))}
    assert set(rest.values()) == {0.0}


def test_yes_and_no_and_blur() -> None:
    row = named(STILL._replace(flip=True, grayscale=True, blur_sigma=0.7, solarize=True))
    assert (row["flip"], row["grayscale"], row["blur_sigma"], row["solarize"]) == (1, 1, 0.7, 1)


def test_every_draw_is_numbers() -> None:
    rows = np.array([draw_row(draw_view(TwoViewParameters(), key % 2, 50, 40, key)) for key in range(200)])
    assert rows.shape == (200, len(DRAW_ROW))
    assert np.isfinite(rows).all()
