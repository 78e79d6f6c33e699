"""J against pixel loops, F against pairs of outline pixels and other morphology, and the statistics of sequences."""

import itertools

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch

from synco_hub.metrics import contour_accuracy, region_similarity, sequence_statistics
from synco_hub.metrics.video_segmentation import dilate, mask_outline


def region_by_hand(mask, target, void):
    inside = either = 0
    for row in range(mask.shape[0]):
        for column in range(mask.shape[1]):
            if not void[row, column]:
                inside += bool(mask[row, column] and target[row, column])
                either += bool(mask[row, column] or target[row, column])
    return 1.0 if either == 0 else inside / either


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_agrees_with_a_loop_over_pixels(share):
    generator = torch.Generator().manual_seed(int(100 * share))
    masks, targets, void = (torch.rand(2, 3, 9, 7, generator=generator) < s for s in (share, share, 0.2))
    found = region_similarity(masks, targets, void)
    for index in np.ndindex(2, 3):
        assert float(found[index]) == region_by_hand(masks[index], targets[index], void[index])


def test_absent_objects():
    empty, full = torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    assert region_similarity(empty, empty) == 1.0
    assert region_similarity(full, empty) == region_similarity(empty, full) == 0.0
    assert region_similarity(full, empty, void=full) == 1.0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 24, 67, 102, 300])
def test_statistics_are_those_of_the_definition(count):
    values = torch.rand(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    cuts = (np.round(np.linspace(1, count, 5) + 1e-10) - 1).astype(int)
    quarters = [values.numpy()[first : last + 1] for first, last in itertools.pairwise(cuts)]
    found = sequence_statistics(values)
    assert found.mean == pytest.approx(values.numpy().mean())
    assert found.recall == pytest.approx((values.numpy() > 0.5).mean())
    assert found.decay == pytest.approx(quarters[0].mean() - quarters[-1].mean())


def test_half_is_no_recall_and_bad_input_is_refused():
    assert sequence_statistics(torch.tensor([0.5, 1.0])).recall == 0.5
    with pytest.raises(ValueError, match="not empty"):
        sequence_statistics(torch.zeros(0))
    with pytest.raises(ValueError, match="do not fit"):
        region_similarity(torch.zeros(2, 2, dtype=torch.bool), torch.zeros(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean"):
        region_similarity(torch.zeros(2, 2), torch.zeros(2, 2))


def outline_by_hand(mask):
    rows, columns = mask.shape
    outline = set()
    for row in range(rows):
        for column in range(columns):
            others = [(row, column + 1), (row + 1, column), (row + 1, column + 1)]
            inside = [(r, c) for r, c in others if r < rows and c < columns]
            if any(mask[place] != mask[row, column] for place in inside):
                outline.add((row, column))
    return outline


def contour_by_hand(mask, target, radius):
    ours, theirs = outline_by_hand(mask), outline_by_hand(target)

    def found(these, those):
        near = [any((r - y) ** 2 + (c - x) ** 2 <= radius**2 for y, x in those) for r, c in these]
        return sum(near) / len(near)

    if not ours or not theirs:
        return float(not ours and not theirs)
    precision, recall = found(ours, theirs), found(theirs, ours)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def blobs(seed, shape=(24, 31)):
    noise = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(scipy.ndimage.gaussian_filter(noise, 3) > 0.03)


@pytest.mark.parametrize("radius", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_a_loop_over_pairs_of_pixels(seed, radius):
    mask, target = blobs(seed), blobs(seed + 100)
    expected = contour_by_hand(mask.numpy(), target.numpy(), radius)
    assert float(contour_accuracy(mask, target, tolerance=radius)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_default_tolerance_is_the_diagonal_s_share_rounded_up(seed):
    # 0.008 of the diagonal of 120 x 160 is 1.6 pixels.
    mask, target = blobs(seed, (120, 160)), blobs(seed + 50, (120, 160))
    assert torch.equal(contour_accuracy(mask, target), contour_accuracy(mask, target, tolerance=2))
    assert not torch.equal(contour_accuracy(mask, target), contour_accuracy(mask, target, tolerance=3))


@pytest.mark.parametrize("radius", [0, 1, 3, 8, 40])
def test_dilation_is_that_of_other_libraries(radius):
    mask = torch.rand(2, 30, 37, generator=torch.Generator().manual_seed(radius)) < 0.01
    reach = np.arange(-radius, radius + 1)
    disk = (reach[:, None] ** 2 + reach[None] ** 2) <= radius**2
    for grown, one in zip(dilate(mask, radius).numpy(), mask.numpy(), strict=True):
        assert np.array_equal(grown, scipy.ndimage.binary_dilation(one, disk))
        assert np.array_equal(grown, cv2.dilate(one.astype(np.uint8), disk.astype(np.uint8)).astype(bool))


def test_outline_of_a_square_and_at_the_border():
    mask = torch.zeros(6, 6, dtype=torch.bool)
    mask[3:, 3:] = True
    found = {(int(r), int(c)) for r, c in mask_outline(mask).nonzero()}
    assert found == outline_by_hand(mask.numpy())
    assert not mask_outline(torch.ones(4, 5, dtype=torch.bool)).any()


def test_absent_objects_shifts_and_batches():
    empty = torch.zeros(40, 40, dtype=torch.bool)
    square = empty.clone()
    square[10:20, 10:20] = True
    far = empty.clone()
    far[30:38, 30:38] = True
    near = torch.roll(square, 1, dims=1)
    assert contour_accuracy(empty, empty) == 1.0
    assert contour_accuracy(square, empty) == contour_accuracy(empty, square) == contour_accuracy(square, far) == 0.0
    # A shift by the tolerance of one pixel costs nothing.
    assert contour_accuracy(square, near) == 1.0
    assert contour_accuracy(square, near, tolerance=0) < 0.6
    batch = contour_accuracy(torch.stack([square, empty]), torch.stack([near, square]))
    assert batch.tolist() == [1.0, 0.0]
    assert contour_accuracy(square, empty, void=square) == 1.0
    with pytest.raises(ValueError, match="negative"):
        contour_accuracy(square, near, tolerance=-1)
