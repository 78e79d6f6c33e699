"""The oracle itself, against torchvision's tensor kernels."""

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from PIL import Image
from pillow_views import PillowTwoViewTransform, apply_view, gaussian_blur, normalized
from torchvision.transforms.v2 import InterpolationMode

from synco_hub.data.samplers import derive_random_key
from synco_hub.data.views.draws import ColorJitterDraw, ViewDraw, draw_view
from synco_hub.data.views.parameters import TwoViewParameters

PAPER = TwoViewParameters()
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def photograph(seed: int, width: int = 50, height: int = 37) -> Image.Image:
    """Smooth noise, so that blur and resize have something to keep."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def with_torchvision(image: Image.Image, draw: ViewDraw, size: int) -> torch.Tensor:
    """The same view by torchvision's tensor kernels, which share no code with its Pillow ones."""
    view = F.pil_to_tensor(image)
    view = F.resized_crop(view, draw.top, draw.left, draw.height, draw.width, [size, size], InterpolationMode.BICUBIC)
    if draw.flip:
        view = F.horizontal_flip(view)
    if draw.color_jitter:
        jitter = draw.color_jitter
        steps = [
            lambda v: F.adjust_brightness(v, jitter.brightness),
            lambda v: F.adjust_contrast(v, jitter.contrast),
            lambda v: F.adjust_saturation(v, jitter.saturation),
            lambda v: F.adjust_hue(v, jitter.hue),
        ]
        for number in jitter.order:
            view = steps[number](view)
    if draw.grayscale:
        view = F.rgb_to_grayscale(view, num_output_channels=3)
    if draw.blur_sigma is not None:
        side = 2 * int(size / 10 / 2) + 1 if size > 39 else 3
        view = F.gaussian_blur(view, [side, side], [draw.blur_sigma] * 2)
    if draw.solarize:
        view = F.solarize(view, 128)
    return F.normalize(F.to_dtype(view, torch.float32, scale=True), MEAN, STD)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(("hue", "mean", "most"), [(False, 1.2, 4), (True, 4, 16)])
def test_a_view_equals_torchvisions_tensor_kernels(size: int, hue: bool, mean: float, most: float) -> None:
    # Each 8-bit step rounds differently there, and Pillow keeps even the hue in 8 bits. Solarization is left out: it
    # would make a jump of a grey level at its threshold.
    gray_level = 1 / 255 / 0.225
    for index in range(60):
        image = photograph(index)
        draw = draw_view(PAPER, index % 2, *image.size, derive_random_key(0, index))._replace(solarize=False)
        if draw.color_jitter and not hue:
            order = tuple(step for step in draw.color_jitter.order if step != 3)
            draw = draw._replace(color_jitter=draw.color_jitter._replace(order=order))
        difference = (apply_view(image, draw, size, PAPER) - with_torchvision(image, draw, size)).abs()
        assert difference.mean() < mean * gray_level
        assert difference.quantile(0.99) < most * gray_level


STILL = ViewDraw(0, 0, 32, 32, False, None, False, None, False)


def test_nothing_drawn_changes_nothing() -> None:
    image = photograph(1, 32, 32)
    view = apply_view(image, STILL, 32, PAPER)
    restored = (view * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    assert np.abs(restored.permute(1, 2, 0).numpy() - np.asarray(image)).max() < 1e-3
    assert view.dtype == torch.float32
    assert view.is_contiguous()


def test_each_step_alone() -> None:
    image = photograph(2, 32, 32)
    pixels = np.asarray(image).astype(float)
    plain = TwoViewParameters(mean=(0, 0, 0), std=(1, 1, 1))

    def seen(**changes: object) -> np.ndarray:
        view = apply_view(image, STILL._replace(**changes), 32, plain)
        return view.permute(1, 2, 0).numpy() * 255

    assert np.allclose(seen(flip=True), pixels[:, ::-1], atol=1e-3)
    assert np.allclose(seen(solarize=True), np.where(pixels < 128, pixels, 255 - pixels), atol=1e-3)
    gray = pixels @ [0.299, 0.587, 0.114]
    assert np.abs(seen(grayscale=True) - gray[..., None]).max() <= 1
    crop = np.asarray(image.crop((3, 5, 23, 31)).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.allclose(seen(top=5, left=3, height=26, width=20), crop, atol=1e-3)
    jitter = ColorJitterDraw(1.3, 1.0, 1.0, 0.0, (0,))
    assert np.abs(seen(color_jitter=jitter) - np.clip(pixels * 1.3, 0, 255)).max() <= 1
    jitter = ColorJitterDraw(1.0, 0.7, 1.0, 0.0, (0, 1, 2))
    assert np.abs(seen(color_jitter=jitter) - (0.7 * pixels + 0.3 * gray.mean())).max() <= 3
    jitter = ColorJitterDraw(1.0, 1.0, 0.8, 0.0, (0, 1, 2))
    assert np.abs(seen(color_jitter=jitter) - (0.8 * pixels + 0.2 * gray[..., None])).max() <= 3


def test_the_order_of_the_jitter_matters() -> None:
    image = photograph(3, 32, 32)
    views = [
        apply_view(image, STILL._replace(color_jitter=ColorJitterDraw(1.4, 0.6, 0.8, 0.1, order)), 32, PAPER)
        for order in ((0, 1, 2, 3), (3, 2, 1, 0))
    ]
    assert not torch.equal(*views)


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.1), (3, 2.0), (9, 0.7), (23, 1.9)])
def test_the_two_pass_blur_is_torchvisions_square_blur(kernel: int, sigma: float) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    ours = gaussian_blur(pixels, kernel, sigma).astype(int)
    theirs = F.gaussian_blur(torch.from_numpy(pixels.transpose(2, 0, 1).copy()), [kernel, kernel], [sigma, sigma])
    assert np.abs(ours - theirs.permute(1, 2, 0).numpy()).max() <= 1
    flat = np.full((40, 31, 3), 77, dtype=np.uint8)
    assert np.array_equal(gaussian_blur(flat, kernel, sigma), flat)


def test_normalization() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    expected = (pixels / 255 - MEAN) / STD
    assert np.allclose(
        normalized(pixels, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).permute(1, 2, 0), expected, atol=1e-6
    )


def test_the_transform_is_a_function_of_its_key_and_leaves_global_generators_alone() -> None:
    transform, image = PillowTwoViewTransform(32), photograph(6)
    torch.manual_seed(0)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = transform(image, 123)
    torch.rand(5)
    second = transform(image, 123)
    torch.manual_seed(0)
    transform(image, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(transform(image, 124)[0], first[0])
    assert first[0].shape == (3, 32, 32)


def test_view_one_is_drawn_by_t_q_and_view_two_by_t_k() -> None:
    image = photograph(7)
    first, second = PillowTwoViewTransform(32)(image, 99)
    assert torch.equal(first, apply_view(image, draw_view(PAPER, 0, *image.size, 99), 32, PAPER))
    assert torch.equal(second, apply_view(image, draw_view(PAPER, 1, *image.size, 99), 32, PAPER))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 300), (300, 3)])
def test_odd_images(width: int, height: int) -> None:
    for key in range(20):
        views = PillowTwoViewTransform(16)(Image.new("RGB", (width, height), (9, 99, 199)), key)
        assert all(torch.isfinite(view).all() and view.shape == (3, 16, 16) for view in views)
