"""The evaluation view against transformers' own processors, and the crop alone."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor
from transformers.image_utils import PILImageResampling

from synco_hub.data.evaluation_transform import CentreCropTransform, EvaluationTransform

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def image(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def processor(size: Any, crop: int | None, **changes: Any) -> ViTImageProcessor:
    settings: dict[str, Any] = {
        "size": size,
        "resample": PILImageResampling.BICUBIC,
        "do_center_crop": crop is not None,
        "crop_size": None if crop is None else {"height": crop, "width": crop},
        "image_mean": MEAN.tolist(),
        "image_std": STD.tolist(),
    }
    return ViTImageProcessor(**{**settings, **changes})


@pytest.mark.parametrize(("width", "height"), [(50, 37), (37, 50), (32, 32), (33, 64), (200, 31), (9, 12)])
@pytest.mark.parametrize("size", [32, 31, 64])
def test_equal_to_the_image_processor_of_transformers(size: int, width: int, height: int) -> None:
    picture = image(size, width, height)
    theirs = processor({"shortest_edge": round(size * 256 / 224)}, size)
    expected = theirs(picture, return_tensors="pt").pixel_values[0]
    for transform in (EvaluationTransform(size), EvaluationTransform.from_image_processor(theirs)):
        view = transform(picture)
        assert view.shape == (3, size, size)
        assert (view - expected).abs().max() < 1e-5


def test_a_processor_that_squashes() -> None:
    for theirs in (processor({"height": 24, "width": 24}, None), processor({"height": 30, "width": 28}, 24)):
        picture = image(1, 61, 40)
        view = EvaluationTransform.from_image_processor(theirs)(picture)
        assert (view - theirs(picture, return_tensors="pt").pixel_values[0]).abs().max() < 1e-5


def test_within_one_grey_level_of_pillow() -> None:
    picture = image(2, 120, 90)
    resized = picture.resize((round(37 * 120 / 90 - 0.5), 37), Image.Resampling.BICUBIC)
    left, top = (resized.width - 32) // 2, (resized.height - 32) // 2
    pixels = np.asarray(resized.crop((left, top, left + 32, top + 32))).astype(float)
    restored = EvaluationTransform(32)(picture).permute(1, 2, 0).numpy() * STD * 255 + MEAN * 255
    assert np.abs(restored - pixels).max() <= 1.01


def test_the_usual_sizes() -> None:
    transform = EvaluationTransform(224)
    assert transform.resize_size == [256]
    assert repr(transform) == "resize 256 bicubic, centre crop 224"
    assert transform(Image.new("RGB", (10, 500))).shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (processor({"shortest_edge": 32}, 28, do_normalize=False), "must all be on"),
        (processor({"shortest_edge": 32}, 28, rescale_factor=1.0), "rescale factor"),
        (processor({"shortest_edge": 32}, None), "not a square"),
        (processor({"shortest_edge": 32}, 1, crop_size={"height": 20, "width": 24}), "not a square"),
    ],
)
def test_processors_that_do_something_else(theirs: ViTImageProcessor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvaluationTransform.from_image_processor(theirs)


def test_impossible_sizes() -> None:
    with pytest.raises(ValueError, match="image size 0"):
        EvaluationTransform(0)
    with pytest.raises(ValueError, match="resize to 20"):
        EvaluationTransform(24, 20)


def test_no_randomness() -> None:
    state = torch.get_rng_state()
    picture = image(3, 40, 40)
    assert torch.equal(EvaluationTransform(16)(picture), EvaluationTransform(16)(picture))
    assert torch.equal(torch.get_rng_state(), state)


def test_pixels_are_not_resized():
    pixels = np.random.default_rng(0).integers(0, 256, (36, 34, 3), dtype=np.uint8)
    like = EvaluationTransform(32)
    view = CentreCropTransform(like)(Image.fromarray(pixels))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (like.mean, like.std))
    expected = (torch.from_numpy(pixels[2:34, 1:33]).permute(2, 0, 1) / 255 - mean) / std
    assert torch.allclose(view, expected, atol=1e-6)
    assert not torch.allclose(view, like(Image.fromarray(pixels)), atol=1e-2)
    assert repr(CentreCropTransform(like)) == "centre crop 32 only"


@pytest.mark.parametrize("side", [31, 37, 224])
def test_files_of_another_size_are_refused(side):
    with pytest.raises(ValueError, match=f"{side} x {side} pixels for a model of 32"):
        CentreCropTransform(EvaluationTransform(32))(Image.new("RGB", (side, side)))
