import colorsys
import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from synco_hub.data.views.batched_color import blend, gray_of, jittered, turned_hue


def random_images(seed: int, count: int = 24) -> torch.Tensor:
    return torch.rand(count, 3, 9, 7, generator=torch.Generator().manual_seed(seed))


def column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def test_gray() -> None:
    images = random_images(0)
    expected = images.movedim(1, -1) @ torch.tensor([0.299, 0.587, 0.114])
    torch.testing.assert_close(gray_of(images)[:, 0], expected)


@pytest.mark.parametrize(
    ("kind", "shares"), [("brightness", (0.0, 0.0)), ("contrast", (0.0, 1.0)), ("saturation", (1.0, 0.0))]
)
def test_each_blend_is_torchvisions(kind: str, shares: tuple[float, float]) -> None:
    images = random_images(1)
    factors = torch.empty(24).uniform_(0.2, 1.8, generator=torch.Generator().manual_seed(2))
    gray_share, mean_share = (torch.full((24, 1, 1, 1), share) for share in shares)
    ours = blend(images, column(factors), gray_share, mean_share)
    theirs = [
        getattr(F, f"adjust_{kind}")(image, float(factor)) for image, factor in zip(images, factors, strict=True)
    ]
    # Its weight of red is rounded to 0.2989.
    torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-4, rtol=0)


def test_the_hue_turns_as_the_colour_circle_of_the_standard_library() -> None:
    images = random_images(3, 6)
    images[0, :, 0, 0] = 0.4  # gray
    images[0, :, 0, 1] = 0.0  # black
    images[0, :, 0, 2] = torch.tensor([1.0, 1.0, 0.0])  # two channels are highest
    hue = torch.tensor([0.1, -0.1, 0.5, -0.03, 0.0, 0.33])
    ours = turned_hue(images, column(hue)).movedim(1, -1).flatten(1, 2).numpy()
    for image, turn, turned in zip(images.movedim(1, -1).flatten(1, 2), hue.tolist(), ours, strict=True):
        for pixel, result in zip(image.tolist(), turned, strict=True):
            h, s, v = colorsys.rgb_to_hsv(*pixel)
            assert np.allclose(result, colorsys.hsv_to_rgb((h + turn) % 1, s, v), atol=2e-6)


def test_all_orders_in_one_batch_are_torchvisions_one_by_one() -> None:
    orders = list(itertools.permutations(range(4)))
    images = random_images(4, len(orders))
    generator = torch.Generator().manual_seed(5)
    values = torch.rand(len(orders), 4, generator=generator) * torch.tensor([0.8, 0.8, 0.4, 0.2])
    values += torch.tensor([0.6, 0.6, 0.8, -0.1])
    names = ("brightness", "contrast", "saturation", "hue")
    expected = []
    for image, order, row in zip(images, orders, values.tolist(), strict=True):
        for step in order:
            image = getattr(F, f"adjust_{names[step]}")(image, row[step])
        expected.append(image)
    blends = torch.tensor([[step for step in order if step != 3] for order in orders])
    before = torch.tensor([[order.index(3)] for order in orders])
    ours = jittered(
        images, values.gather(1, blends), (blends == 2).float(), (blends == 1).float(), before, column(values[:, 3])
    )
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-3, rtol=0)


def test_factors_of_one_change_no_bit() -> None:
    images = random_images(6)
    ones, zeros = torch.ones(24, 3), torch.zeros(24, 3)
    for before in range(4):
        same = jittered(images, ones, zeros, ones, torch.full((24, 1), before), torch.zeros(24, 1, 1, 1))
        assert torch.equal(same, images)
