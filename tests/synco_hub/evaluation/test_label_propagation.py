"""Against a loop over patches and the usual whole-matrix form; planted motions are followed exactly."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from synco_hub.evaluation import label_propagation
from synco_hub.evaluation.label_propagation import (
    LabelPropagation,
    PropagationSettings,
    convert_labels_to_mask,
    encode_patches,
    find_nearest_pixels,
    propagate_labels,
)


def draw(seed, frames=3, rows=7, columns=9, dim=5, objects=3):
    generator = torch.Generator().manual_seed(seed)
    features = F.normalize(
        torch.randn(frames + 1, rows, columns, dim, generator=generator, dtype=torch.float64), dim=-1
    )
    labels = torch.rand(frames, rows, columns, objects, generator=generator, dtype=torch.float64)
    return features[0], features[1:], labels


def by_hand(features, context, labels, settings):
    frames, rows, columns, _ = context.shape
    result = torch.zeros(rows, columns, labels.shape[-1], dtype=torch.float64)
    for row in range(rows):
        for column in range(columns):
            near = []
            for f in range(frames):
                for r in range(rows):
                    for c in range(columns):
                        inside = max(abs(r - row), abs(c - column)) <= settings.radius
                        if inside or settings.radius == 0:
                            likeness = float(features[row, column] @ context[f, r, c])
                            near.append((likeness, labels[f, r, c]))
            near.sort(key=lambda pair: -pair[0])
            best = near[: settings.topk]
            weights = [np.exp(likeness / settings.temperature) for likeness, _ in best]
            result[row, column] = sum(w * label for w, (_, label) in zip(weights, best, strict=True)) / sum(weights)
    return result


@pytest.mark.parametrize("tile", [(10, 26), (3, 4), (1, 1)])
@pytest.mark.parametrize(
    "settings",
    [
        PropagationSettings(topk=3, radius=2),
        PropagationSettings(topk=5, radius=0, temperature=0.5),
        PropagationSettings(topk=1000, radius=1),
        PropagationSettings(topk=1, radius=50),
    ],
)
def test_agrees_with_a_loop_over_patches(settings, tile, monkeypatch):
    monkeypatch.setattr(label_propagation, "_TILE_ROWS", tile[0])
    monkeypatch.setattr(label_propagation, "_TILE_COLUMNS", tile[1])
    features, context, labels = draw(1)
    found = propagate_labels(features, context, labels, settings)
    assert torch.allclose(found, by_hand(features, context, labels, settings), atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_whole_matrix(seed):
    """exp first, distant patches to zero, all below the k-th largest to zero: the usual form, ties kept."""
    features, context, labels = draw(seed, frames=2, rows=6, columns=6)
    context[1, 2] = context[0, 2]  # exact ties
    affinity = torch.exp(torch.einsum("rcd,fyxd->fyxrc", features, context) / 0.1)
    for row in range(6):
        for column in range(6):
            for r in range(6):
                for c in range(6):
                    if max(abs(r - row), abs(c - column)) > 2:
                        affinity[:, r, c, row, column] = 0
    flat = affinity.reshape(72, 36)
    flat[flat < flat.topk(4, dim=0).values[-1]] = 0
    flat = flat / flat.sum(0)
    expected = (labels.reshape(72, -1).T @ flat).T.reshape(6, 6, -1)
    found = propagate_labels(features, context, labels, PropagationSettings(topk=4, radius=2))
    assert torch.allclose(found, expected, atol=1e-10)


def test_the_first_frame_stays_and_only_the_last_few_follow():
    """Labels of frame t are one-hot at t; who gives labels is who is in the context."""
    settings = PropagationSettings(num_previous=2, topk=100, radius=0, temperature=1e6)
    constant = torch.ones(1, 1, 3)
    following = LabelPropagation(constant, torch.tensor([[[1.0, 0.0]]]), settings)
    following._previous.extend([(F.normalize(constant, dim=-1), torch.tensor([[[0.0, 1.0]]]))] * 3)
    assert len(following._previous) == 2
    # One frame of the first kind and two of the second weigh alike.
    assert torch.allclose(following.step(constant), torch.tensor([[[1 / 3, 2 / 3]]]))
    assert torch.allclose(following.step(constant), torch.tensor([[[(1 + 0 + 1 / 3) / 3, (0 + 1 + 2 / 3) / 3]]]))


def test_a_moving_square_is_followed_exactly():
    colours = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    places = [torch.zeros(10, 14, dtype=torch.long) for _ in range(6)]
    for time, place in enumerate(places):
        place[2 + time // 2 : 5 + time // 2, 1 + time : 5 + time] = 1
    labels = F.one_hot(places[0], 2).float()
    following = LabelPropagation(colours[places[0]], labels, PropagationSettings(radius=3))
    for place in places[1:]:
        found = following.step(colours[place])
        # Sums of weights round a little.
        assert torch.allclose(found, F.one_hot(place, 2).float(), atol=1e-5)


@pytest.mark.parametrize(("old", "new"), [((480, 854), (30, 52)), ((30, 53), (118, 200)), ((7, 5), (7, 5))])
def test_nearest_pixels_are_pillow_s(old, new):
    mask = np.random.default_rng(0).integers(0, 9, old).astype(np.uint8)
    expected = np.asarray(Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(find_nearest_pixels(torch.from_numpy(mask), new).numpy(), expected)


def test_labels_and_masks_round_trip_where_edges_are_those_of_patches():
    mask = torch.zeros(32, 48, dtype=torch.uint8)
    mask[:, 8:24] = 1
    mask[:, 32:] = 2
    labels = encode_patches(mask, (4, 6), 2)
    assert labels.sum(dim=-1).eq(1).all()
    assert torch.equal(convert_labels_to_mask(labels, (32, 48), (32, 48), (32, 48)), mask)
    assert torch.equal(
        convert_labels_to_mask(labels, (32, 48), (32, 48), (64, 96)),
        mask.repeat_interleave(2, 0).repeat_interleave(2, 1),
    )
    # Patches may cover more than the network saw.
    assert torch.equal(convert_labels_to_mask(labels, (32, 48), (32, 40), (32, 40)), mask[:, :40])


def test_labels_to_mask_is_the_published_post_processing():
    labels = torch.rand(5, 6, 3, generator=torch.Generator().manual_seed(3))
    labels[..., 2] = 0.0  # an object that is nowhere
    maps = F.interpolate(labels.permute(2, 0, 1)[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    for number in range(3):
        if maps[number].max() > 0:
            maps[number] = maps[number] - maps[number].min()
            maps[number] = maps[number] / maps[number].max()
    expected = Image.fromarray(maps.argmax(0).numpy().astype(np.uint8)).resize((31, 23), Image.Resampling.NEAREST)
    assert np.array_equal(convert_labels_to_mask(labels, (20, 24), (20, 24), (23, 31)).numpy(), np.asarray(expected))


def test_other_indices_are_background_and_settings_are_checked():
    mask = torch.tensor([[0, 255], [1, 7]], dtype=torch.uint8)
    assert encode_patches(mask, (2, 2), 1).argmax(-1).tolist() == [[0, 0], [1, 0]]
    for wrong in ({"topk": 0}, {"temperature": 0.0}, {"radius": -1}, {"num_previous": -1}):
        with pytest.raises(ValueError, match="DINO"):
            PropagationSettings(**wrong)
