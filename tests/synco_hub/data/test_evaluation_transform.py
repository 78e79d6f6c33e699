"""The evaluation view against transformers' own processors, and the crop alone."""

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BeitImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DetrImageProcessor,
    EfficientNetImageProcessor,
    LlavaImageProcessor,
    MobileViTImageProcessor,
    Owlv2ImageProcessor,
    PoolFormerImageProcessor,
    PPLCNetImageProcessor,
    PvtImageProcessor,
    Qwen2VLImageProcessor,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
    VitPoseImageProcessor,
)
from transformers.image_utils import PILImageResampling

from synco_hub.data.evaluation_transform import CentreCropTransform, EvaluationTransform

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def image(seed: int, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def smooth_image(seed: int, width: int, height: int) -> Image.Image:
    return image(seed, 9, 7).resize((width, height), Image.Resampling.BICUBIC)


def timm_processor(**values: Any) -> TimmWrapperImageProcessor:
    return TimmWrapperImageProcessor({"input_size": [3, 48, 48], "crop_pct": 1.0, "mean": MEAN, "std": STD, **values})


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


# On a photograph, fields that are read and fields that are not differ by 1 to 4 normalised units.
FOREIGN = {
    "ViT": (ViTImageProcessor(), True),
    "ViT by Pillow": (ViTImageProcessorPil(), False),
    "CLIP": (CLIPImageProcessor(), True),
    "SigLIP": (SiglipImageProcessor(), True),
    "BEiT": (BeitImageProcessor(), True),
    "PVT": (PvtImageProcessor(), True),
    "DINOv2": (BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}), True),
    "ConvNeXt 384": (ConvNextImageProcessor(size={"shortest_edge": 384}), False),
    "ConvNeXt 224": (ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=224 / 256), False),
    "EfficientNet": (EfficientNetImageProcessor(rescale_offset=True, include_top=True), False),
    "PoolFormer": (PoolFormerImageProcessor(), False),
    "PPLCNet": (PPLCNetImageProcessor(), False),
    "Owlv2": (Owlv2ImageProcessor(size={"height": 96, "width": 96}), False),
    "LLaVA padded": (LlavaImageProcessor(do_pad=True), False),
    "longest edge": (processor({"shortest_edge": 40, "longest_edge": 60}, 32), False),
    "timm": (timm_processor(crop_pct=0.9), False),
    "timm, squashed": (timm_processor(crop_mode="squash"), False),
    "timm, with a border": (timm_processor(crop_mode="border"), False),
    "not normalised": (processor({"shortest_edge": 32}, 28, do_normalize=False), False),
    "not rescaled": (processor({"shortest_edge": 32}, 28, do_rescale=False), False),
    "other scale": (processor({"shortest_edge": 32}, 28, rescale_factor=1 / 127.5), False),
    "not square": (processor({"shortest_edge": 32}, 1, crop_size={"height": 20, "width": 24}), False),
    "one channel": (ViTImageProcessor(size={"height": 24, "width": 24}, image_mean=[0.4], image_std=[0.3]), True),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_every_processor_is_itself_or_its_numbers(name: str) -> None:
    theirs, by_numbers = FOREIGN[name]
    transform = EvaluationTransform.from_image_processor(theirs)
    assert (type(transform) is EvaluationTransform) == by_numbers
    for width, height in ((403, 301), (150, 233), (40, 21), (500, 90)):
        picture = smooth_image(width, width, height)
        expected = theirs(picture.convert("L") if name == "one channel" else picture, return_tensors="pt")
        assert transform(picture).shape == expected.pixel_values[0].shape == transform.shape
        assert (transform(picture) - expected.pixel_values[0]).abs().max() < 1e-5
    facts = json.loads(json.dumps(transform.facts()))
    assert facts["steps"] == repr(transform)
    again = pickle.loads(pickle.dumps(transform))
    assert torch.equal(again(picture), transform(picture))


@pytest.mark.parametrize("name", [name for name in FOREIGN if name not in ("PPLCNet", "one channel")])
def test_pixels_between_0_and_1_are_had_back_from_every_processor(name: str) -> None:
    transform = EvaluationTransform.from_image_processor(FOREIGN[name][0])
    picture = smooth_image(1, 130, 101)
    pixels, view = transform.without_normalisation()(picture), transform(picture)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    assert 0 <= pixels.min() < 0.2
    assert 0.8 < pixels.max() <= 1
    assert ((pixels - mean) / std - view).abs().max() < 1e-4
    grey = transform(picture, lambda pixels: torch.full_like(pixels, 0.5))
    assert (grey - (0.5 - mean) / std).abs().max() < 1e-5
    one_colour = transform.without_normalisation()(Image.new("RGB", (80, 80), (51, 102, 204)))
    assert (one_colour - torch.tensor([0.2, 0.4, 0.8]).view(3, 1, 1)).abs().max() < 1e-4


def test_a_processor_that_exchanges_channels_has_no_mean() -> None:
    transform = EvaluationTransform.from_image_processor(MobileViTImageProcessor())
    for read in (lambda: transform.mean, lambda: transform.std, transform.without_normalisation):
        with pytest.raises(ValueError, match="MobileViTImageProcessor itself, 256 x 256: it changes colours"):
            read()


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (processor({"shortest_edge": 32}, None), "shapes .*save the model's directory with a fixed size"),
        (processor({"shortest_edge": 32}, 28, do_resize=False, do_center_crop=False), "of different sizes"),
        (DetrImageProcessor(), "of different sizes"),
        (Siglip2ImageProcessor(), r"\(256, 768\) an image, no \(channels, height, width\).*fixed resolution"),
        (Qwen2VLImageProcessor(), "does not give one view"),
        (VitPoseImageProcessor(), "does not make a view of an image alone .*'boxes'"),
    ],
)
def test_processors_without_one_size(theirs: Any, message: str) -> None:
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
