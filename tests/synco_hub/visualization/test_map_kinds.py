"""Every kind is drawn for the families it fits, from the function of its name."""

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.visualization import (
    MAP_KINDS,
    attention_maps,
    drawn_map,
    gradient_maps,
    mass_mask,
    overlay,
    paper_kinds,
    prepared_image,
    upsample,
)

FITS = {
    "vit-nano": {"cls", "patch", "rollout", "cam", "saliency", "tokens", "foreground"},
    "swin-nano": {"cam", "saliency", "windows", "tokens", "foreground"},
}


def model_and_image(backbone: str):
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    prepared = prepared_image(Image.fromarray(noise), image_processor(32), shown_side=64)
    return SynCoModel(SynCoConfig(backbone=backbone)).eval(), prepared


@pytest.mark.parametrize("backbone", FITS)
def test_each_kind_fits_or_says_that_it_does_not(backbone):
    model, prepared = model_and_image(backbone)
    drawn = []
    for kind in MAP_KINDS:
        if kind in FITS[backbone]:
            drawn.append(drawn_map(kind, model, prepared))
            assert drawn[-1].shape == prepared.shown.shape
        else:
            with pytest.raises(ValueError, match=r"Swin|windows"):
                drawn_map(kind, model, prepared)
    assert all(not np.allclose(a, b, atol=1e-3) for i, a in enumerate(drawn) for b in drawn[:i])
    assert set(paper_kinds(model)) < FITS[backbone]


def test_threshold_strength_and_colours_are_those_of_overlay():
    model, prepared = model_and_image("vit-nano")
    patch = attention_maps(model, prepared.pixel_values).patch
    large = upsample(patch * mass_mask(patch, 0.5), (64, 64))[0]
    expected = overlay(prepared.shown, large, 0.4, "magma")
    np.testing.assert_allclose(drawn_map("patch", model, prepared, 0.5, 0.4, "magma"), expected, atol=1e-6)
    swin, prepared = model_and_image("swin-nano")
    cam = upsample(gradient_maps(swin, prepared.pixel_values).cam, (64, 64))[0]
    np.testing.assert_allclose(drawn_map("cam", swin, prepared), overlay(prepared.shown, cam, 1.0), atol=1e-6)
    with pytest.raises(ValueError, match="kind 'clss' is unknown"):
        drawn_map("clss", swin, prepared)
