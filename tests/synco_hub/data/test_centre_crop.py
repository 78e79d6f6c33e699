import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data import EvaluationTransform
from synco_hub.data.centre_crop import CentreCropTransform


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
