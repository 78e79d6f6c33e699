import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from synco_hub.data.samplers import derive_random_key
from synco_hub.data.views.draws import BLENDS, DRAW_ROW, ColorJitterDraw, ViewDraw, draw_row, draw_view
from synco_hub.data.views.parameters import TwoViewParameters

PAPER = TwoViewParameters()
COUNT = 10_000


@pytest.fixture(scope="module", params=[0, 1])
def drawn(request: pytest.FixtureRequest) -> tuple[int, list[ViewDraw]]:
    view = int(request.param)
    return view, [draw_view(PAPER, view, 500, 375, derive_random_key(11, 0, index)) for index in range(COUNT)]


def share_matches(count: int, probability: float) -> bool:
    return count == round(probability * COUNT) or stats.binomtest(count, COUNT, probability).pvalue > 1e-4


def test_frequencies_of_table_11(drawn: tuple[int, list[ViewDraw]]) -> None:
    view, draws = drawn
    assert share_matches(sum(draw.flip for draw in draws), 0.5)
    assert share_matches(sum(draw.color_jitter is not None for draw in draws), 0.8)
    assert share_matches(sum(draw.grayscale for draw in draws), 0.2)
    assert share_matches(sum(draw.blur_sigma is not None for draw in draws), (1.0, 0.1)[view])
    assert share_matches(sum(draw.solarize for draw in draws), (0.0, 0.2)[view])


def test_ranges_of_table_11(drawn: tuple[int, list[ViewDraw]]) -> None:
    _, draws = drawn
    jitters = [draw.color_jitter for draw in draws if draw.color_jitter]
    for values, center, strength in (
        ([j.brightness for j in jitters], 1, 0.4),
        ([j.contrast for j in jitters], 1, 0.4),
        ([j.saturation for j in jitters], 1, 0.2),
        ([j.hue for j in jitters], 0, 0.1),
    ):
        assert stats.kstest(values, stats.uniform(center - strength, 2 * strength).cdf).pvalue > 1e-4
    sigmas = [draw.blur_sigma for draw in draws if draw.blur_sigma is not None]
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4
    orders = [j.order for j in jitters]
    assert len(set(orders)) == 24
    assert stats.chisquare(np.unique(orders, axis=0, return_counts=True)[1]).pvalue > 1e-4


@pytest.mark.parametrize(("width", "height"), [(500, 375), (32, 32), (40, 400)])
def test_crops_are_distributed_as_those_of_torchvision(width: int, height: int) -> None:
    ours = [draw_view(PAPER, 0, width, height, derive_random_key(5, index)) for index in range(COUNT)]
    reference = v2.RandomResizedCrop(224, scale=PAPER.crop_scale, ratio=PAPER.crop_ratio)
    image = torch.empty(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = [reference.make_params([image]) for _ in range(COUNT)]
    for name in ("top", "left", "height", "width"):
        pvalue = stats.ks_2samp([getattr(draw, name) for draw in ours], [draw[name] for draw in theirs]).pvalue
        assert pvalue > 1e-4, name
    areas = [[draw.height * draw.width for draw in ours], [draw["height"] * draw["width"] for draw in theirs]]
    assert stats.ks_2samp(*areas).pvalue > 1e-4
    ratios = [[draw.width / draw.height for draw in ours], [draw["width"] / draw["height"] for draw in theirs]]
    assert stats.ks_2samp(*ratios).pvalue > 1e-4


def test_area_uniform_and_ratio_log_uniform_where_every_crop_fits() -> None:
    small = TwoViewParameters(crop_scale=(0.08, 0.5))
    draws = [draw_view(small, 0, 10_000, 10_000, derive_random_key(6, index)) for index in range(COUNT)]
    areas = [draw.height * draw.width / 1e8 for draw in draws]
    assert stats.kstest(areas, stats.uniform(0.08, 0.42).cdf).pvalue > 1e-4
    ratios = [math.log(draw.width / draw.height) for draw in draws]
    assert stats.kstest(ratios, stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3)).cdf).pvalue > 1e-4


def test_crops_lie_inside_and_keep_scale_and_ratio() -> None:
    generator = np.random.default_rng(3)
    for index in range(3000):
        width, height = (int(side) for side in generator.integers(1, 300, 2))
        draw = draw_view(PAPER, 1, width, height, index)
        assert 0 <= draw.top <= draw.top + draw.height <= height
        assert 0 <= draw.left <= draw.left + draw.width <= width
        assert min(draw.height, draw.width) >= 1
        if min(draw.height, draw.width) > 40 and 3 / 4 < width / height < 4 / 3:
            assert 0.07 < draw.height * draw.width / (height * width) <= 1
            assert 0.72 < draw.width / draw.height < 1.37


def test_a_ratio_that_never_fits_falls_back_to_the_middle() -> None:
    wide = TwoViewParameters(crop_scale=(1.0, 1.0))
    assert draw_view(wide, 0, 400, 100, 1)[:4] == (0, 133, 100, 133)
    assert draw_view(wide, 0, 100, 400, 1)[:4] == (133, 0, 133, 100)


def test_without_cropping_the_whole_image_is_taken() -> None:
    draw = draw_view(TwoViewParameters(random_crop_probability=0.0), 0, 31, 17, 4)
    assert draw[:4] == (0, 0, 17, 31)


def test_views_samples_and_epochs_are_independent() -> None:
    keys = [derive_random_key(0, epoch, index) for epoch in range(2) for index in range(2000)]
    first, second = ([draw_view(PAPER, view, 224, 224, key) for key in keys] for view in (0, 1))
    areas = np.array([[math.sqrt(a.height * a.width) for a in draws] for draws in (first, second)])
    assert abs(np.corrcoef(areas)[0, 1]) < 0.07
    assert abs(np.corrcoef(areas[0, :2000], areas[0, 2000:])[0, 1]) < 0.09
    assert draw_view(PAPER, 1, 224, 224, keys[7]) == second[7]


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
