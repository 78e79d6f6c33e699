import math

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F

from synco_hub.data.views.batched_blur import blurred, kernel_weights, reflected_offsets


@pytest.mark.parametrize(("size", "radius"), [(2, 1), (5, 4), (16, 1), (40, 11)])
def test_the_matrix_of_taps_is_padding_by_reflection(size: int, radius: int) -> None:
    offsets = reflected_offsets(size, radius)
    assert offsets.shape == (radius + 1, size, size)
    padded = np.pad(np.arange(size), radius, mode="reflect")
    for tap in range(radius + 1):
        for place in range(size):
            count = np.zeros(size)
            for reach in {place + radius - tap, place + radius + tap}:
                count[padded[reach]] += 1
            assert offsets[tap, place].tolist() == count.tolist()


def test_one_pixel() -> None:
    images = torch.rand(2, 3, 1, 1)
    assert torch.equal(blurred(images, torch.tensor([1.0, 0.0]), reflected_offsets(1, 0)), images)


def test_weights() -> None:
    weights = kernel_weights(torch.tensor([0.8, 0.0, 2.0]), 3)
    for row, sigma in ((weights[0], 0.8), (weights[2], 2.0)):
        whole = [math.exp(-0.5 * (tap / sigma) ** 2) for tap in range(-3, 4)]
        assert row.tolist() == pytest.approx([value / sum(whole) for value in whole[3:]], rel=1e-5)
    assert weights[1].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("size", "radius"), [(40, 11), (32, 1), (13, 6)])
def test_each_image_is_blurred_as_torchvision_blurs_it(size: int, radius: int) -> None:
    generator = torch.Generator().manual_seed(size)
    images = torch.rand(5, 3, size, size, generator=generator)
    sigma = torch.tensor([0.1, 0.5, 1.0, 1.7, 2.0])
    ours = blurred(images, sigma, reflected_offsets(size, radius))
    side = 2 * radius + 1
    theirs = [
        F.gaussian_blur(image, [side, side], [width, width])
        for image, width in zip(images, sigma.tolist(), strict=True)
    ]
    torch.testing.assert_close(ours, torch.stack(theirs), atol=2e-6, rtol=0)


def test_images_that_stay_sharp_keep_their_bits_beside_others() -> None:
    images = torch.rand(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    result = blurred(images, torch.tensor([0.0, 1.0, 0.0, 2.0]), reflected_offsets(24, 5))
    assert torch.equal(result[::2], images[::2])
    assert not torch.equal(result[1], images[1])
