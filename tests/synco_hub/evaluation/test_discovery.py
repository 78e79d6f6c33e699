"""Planted objects are found; LOST against a loop and the regions of scipy."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from synco_hub.data.voc_boxes import BoxedImage
from synco_hub.evaluation import discovery
from synco_hub.evaluation.discovery import discover_box, evaluate_discovery, lost_mask, mask_box
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.models import SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import DiscoverySettings

# Patches of 8 pixels; the right and lower rest of the image fills no patch.
BOX = (16, 8, 40, 32)


def opposed_keys():
    """A key is the brightness of its patch, so that a bright object's keys oppose those of a dark ground."""
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    backbone = model.backbone
    backbone.pos_embed.data.zero_()
    backbone.patch_embed.proj.weight.data.fill_(1e-3)
    backbone.patch_embed.proj.weight.data[::2].mul_(-1)
    backbone.patch_embed.proj.bias.data.zero_()
    return EvaluatedModel(model, image_processor(32), "opposed")


def picture(size=(61, 45), box=BOX):
    image = Image.new("RGB", size, (30, 30, 30))
    image.paste((240, 240, 240), box)
    return image


@pytest.fixture
def images(tmp_path):
    """Three of four annotations lie well on what is there."""
    kept = []
    for number, annotated in enumerate([BOX, (18, 9, 40, 32), (50, 35, 60, 44), (0, 0, 61, 20)]):
        file = tmp_path / f"{number}.png"
        picture().save(file)
        boxes = [annotated, (0, 0, 2, 2)] if number != 3 else [annotated, BOX]
        kept.append(BoxedImage(f"{number:06d}", file, torch.tensor(boxes, dtype=torch.float64)))
    return kept


@pytest.mark.parametrize("method", ["lost", "tokencut"])
def test_planted_boxes_and_corloc(images, tmp_path, method):
    settings = DiscoverySettings(method, save_boxes=str(tmp_path / "kept"), progress=False)
    result, boxes = evaluate_discovery(opposed_keys(), images, settings)
    assert boxes.tolist() == [list(map(float, BOX))] * 4
    assert result.metrics == {"corloc": 75.0}
    assert result.protocol.parameters["method"] == {"lost": "LOST", "tokencut": "TokenCut"}[method]
    assert not result.partial
    assert set(json.loads((tmp_path / "kept" / "boxes.json").read_text())) == {image.name for image in images}


def test_boxes_end_with_the_picture_and_have_its_scale():
    model = opposed_keys()
    settings = DiscoverySettings("lost", progress=False)
    # The object reaches the lower right corner, which lies inside a patch.
    assert discover_box(model, picture(box=(40, 24, 61, 45)), settings) == [40, 24, 61, 45]
    # Twice as large an image, seen at half of its size.
    large = picture().resize((122, 90), Image.Resampling.NEAREST)
    found = discover_box(model, large, DiscoverySettings("lost", max_side=61, progress=False))
    assert found == [2.0 * side for side in BOX]


def test_a_killed_run_goes_on_and_other_models_are_refused(images, tmp_path, monkeypatch):
    monkeypatch.setattr(discovery, "_KEPT_EVERY", 1)
    settings = DiscoverySettings(save_boxes=str(tmp_path / "kept"), progress=False)
    model, seen = opposed_keys(), []
    original = discovery.discover_box

    def killed(model, image, how):
        seen.append(image)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(model, image, how)

    monkeypatch.setattr(discovery, "discover_box", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_discovery(model, images, settings)
    result, _ = evaluate_discovery(model, images, settings)
    assert len(seen) == 5
    assert result.metrics == {"corloc": 75.0}
    # An image that changed on disk is looked at again, the others are not.
    picture(box=(0, 8, 16, 32)).save(images[1].file)
    _, boxes = evaluate_discovery(model, images, settings)
    assert len(seen) == 6
    assert boxes.tolist() == [list(map(float, box)) for box in (BOX, (0, 8, 16, 32), BOX, BOX)]
    grey = replace(model, processor=image_processor(32))
    grey.processor.image_mean = [0.5, 0.5, 0.5]
    for other, how in ((model, replace(settings, method="tokencut")), (grey, settings)):
        with pytest.raises(ValueError, match="another measurement"):
            evaluate_discovery(other, images, how)


@pytest.mark.parametrize("method", ["lost", "tokencut"])
def test_weights_that_are_nan_find_no_box(images, method):
    model = opposed_keys()
    model.network.backbone.patch_embed.proj.bias.data[3] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluate_discovery(model, images, DiscoverySettings(method, progress=False))


def test_a_subset_is_partial(images):
    result, _ = evaluate_discovery(opposed_keys(), images[:2], DiscoverySettings(progress=False), listed=4)
    assert result.partial
    assert result.notes == ("the first 2 of 4 images",)
    assert result.dataset.count == 2


def test_box_of_a_mask():
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:3, 2] = mask[2, 5] = True
    assert mask_box(torch.from_numpy(mask)) == (2, 1, 6, 3)
    with pytest.raises(ValueError, match="empty mask"):
        mask_box(torch.zeros(2, 2, dtype=torch.bool))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="use one of lost, tokencut"):
        DiscoverySettings("dino")
    with pytest.raises(ValueError, match="max_side=0"):
        DiscoverySettings(max_side=0)


def by_hand(keys, k_patches):
    rows, columns, _ = keys.shape
    flat = keys.reshape(rows * columns, -1)
    count = len(flat)
    correlation = np.array([[float(np.dot(flat[i], flat[j])) for j in range(count)] for i in range(count)])
    degree = [sum(correlation[i, j] > 0 for j in range(count) if j != i) for i in range(count)]
    order = sorted(range(count), key=lambda i: (degree[i], i))
    seed = order[0]
    voters = [i for i in order[:k_patches] if correlation[seed, i] > 0]
    mask = np.array([sum(correlation[v, i] for v in voters) > 0 for i in range(count)]).reshape(rows, columns)
    regions, _ = scipy.ndimage.label(mask)
    return regions == regions.flat[seed]


@pytest.mark.parametrize("k_patches", [1, 10, 100])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_definition(seed, k_patches):
    keys = torch.randn(6, 8, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert np.array_equal(lost_mask(keys, k_patches).numpy(), by_hand(keys.numpy(), k_patches))


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_object_is_found(seed):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(12, 14, dtype=torch.bool)
    mask[3:8, 4:9] = True
    direction = torch.randn(32, generator=generator)
    keys = torch.where(mask[..., None], direction, -direction) + 0.2 * torch.randn(12, 14, 32, generator=generator)
    assert torch.equal(lost_mask(keys), mask)


def test_bad_patches_are_refused():
    with pytest.raises(ValueError, match="k_patches=0"):
        lost_mask(torch.randn(3, 3, 4), 0)
