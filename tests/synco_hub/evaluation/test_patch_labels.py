"""From pixels to patches and back: against slow loops, PyTorch's own interpolation, and `SynCoBackbone`."""

import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import (
    Dinov2Config,
    Dinov2Model,
    ResNetConfig,
    ResNetModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)

from synco_hub.data.masked_images import MaskedImages
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.evaluation.patch_labels import (
    PatchLook,
    PatchMemory,
    label_pixels,
    patch_labels,
    score_patches,
    window_starts,
)
from synco_hub.models import SynCoBackbone, SynCoConfig, SynCoModel, image_processor
from synco_hub.settings import SegmentationSettings


def _look(network=None, **settings):
    torch.manual_seed(0)
    network = SynCoModel(SynCoConfig("vit-nano")) if network is None else network
    model = EvaluatedModel(network.eval(), image_processor(32), "model")
    return PatchLook.of(model, SegmentationSettings(**{"device": "cpu", "progress": False, **settings}))


def _picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


# ---- features


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_features_are_the_backbones_maps(backbone):
    torch.manual_seed(1)
    network = SynCoModel(SynCoConfig(backbone))
    look = _look(network, side=32)
    swin = backbone == "swin-nano"
    ours = SynCoBackbone(SynCoConfig(backbone, apply_layernorm=not swin, **({"out_indices": [2]} if swin else {})))
    ours.synco.load_state_dict(network.state_dict())
    assert look.stage == (2 if swin else None)
    size, windows = look.features(_picture(50, 37))
    assert size == (32, round(50 * 32 / 37))
    ((top, left, features),) = windows
    assert (top, left) == (0, 0)
    resized = _picture(50, 37).resize(size[::-1], Image.Resampling.BILINEAR)
    scaled = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (look.model.mean, look.model.std))
    pixels = F.pad(((scaled - mean) / std)[None], (0, -size[1] % look.patch[1], 0, -size[0] % look.patch[0]))
    with torch.no_grad():
        wanted = ours.eval()(pixels).feature_maps[0][0].permute(1, 2, 0)
    torch.testing.assert_close(features, wanted, rtol=1e-5, atol=1e-5)


def _small(kind):
    numbers = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    if kind == "vit":
        return ViTModel(ViTConfig(**numbers, intermediate_size=32))
    if kind == "dinov2":
        return Dinov2Model(Dinov2Config(**numbers))
    return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=1, dynamic_img_size=True)


@pytest.mark.parametrize("kind", ["vit", "dinov2", "timm"])
def test_vits_of_other_libraries_have_patch_features(kind):
    look = _look(_small(kind))
    assert (look.patch, look.side) == ((8, 8), 32)
    ((_, _, features),) = look.features(_picture(40, 64))[1]
    assert features.shape[:2] == (math.ceil(64 * 32 / 40 / 8), 4)


def test_the_last_map_of_a_swin_of_transformers_is_read():
    config = SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4)
    look = _look(SwinModel(config))
    assert (look.patch, look.stage) == ((4, 4), None)
    ((_, _, features),) = look.features(_picture(40, 50))[1]
    assert features.shape == (10, 8, 16)
    with pytest.raises(ValueError, match="stage=1: SwinModel gives its last map only"):
        _look(SwinModel(config), stage=1)


def test_a_model_without_patches_is_refused_in_one_line():
    networks = (
        ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1])),
        timm.create_model("resnet10t", num_classes=0),
    )
    for network in networks:
        with pytest.raises(ValueError, match=r"'model' has no patch features .*give a ViT") as error:
            _look(network)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 4}, "side=4 is less than the model's patches of 8"),
        ({"side": 32, "stride": 12}, "stride=12 is no multiple of the patches of 8"),
        ({"side": 36, "stride": 8}, "side=36 is no multiple"),
        ({"side": 32, "stride": 40}, "stride=40 is more than side=32"),
    ],
)
def test_sides_and_strides_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _look(**settings)


def test_windows_cover_an_axis_with_the_last_at_its_end():
    assert window_starts(32, 32, 16) == [0]
    assert window_starts(24, 32, 16) == [0]
    assert window_starts(64, 32, 16) == [0, 16, 32]
    assert window_starts(72, 32, 24) == [0, 24, 40]


def test_scores_of_windows_are_averaged_where_they_overlap():
    look = _look(side=32, stride=16)
    picture = _picture(56, 32)
    probe = lambda features: features[:, :3]  # noqa: E731
    (scores,) = score_patches(look, picture, [probe])
    total, times = torch.zeros(4, 7, 3), torch.zeros(4, 7, 1)
    for top, left, features in look.features(picture)[1]:
        for row in range(4):
            for column in range(4):
                total[top + row, left + column] += features[row, column, :3]
                times[top + row, left + column] += 1
    torch.testing.assert_close(scores, total / times)
    assert (times.max(), times.min()) == (3, 1)


# ---- labels


def test_a_patchs_label_is_the_share_of_its_pixels():
    generator = torch.Generator().manual_seed(2)
    mask = torch.randint(0, 4, (21, 30), generator=generator)
    mask[mask == 3] = 255
    found = patch_labels(mask, (21, 30), (8, 8), 3)
    assert found.shape == (3, 4, 3)
    for row in range(3):
        for column in range(4):
            part = mask[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
            for number in range(3):
                assert found[row, column, number] == (part == number).sum() / 64


def test_labels_follow_the_image_when_it_is_resized():
    mask = torch.zeros(40, 60, dtype=torch.long)
    mask[:, 30:] = 1
    found = patch_labels(mask, (20, 30), (5, 5), 2)
    assert found[:, :3, 0].eq(1).all()
    assert found[:, 3:, 1].eq(1).all()


def test_pixels_get_the_class_of_the_interpolated_score():
    scores = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(3))
    found = label_pixels(scores, (40, 56), (8, 8), (80, 112))
    wanted = F.interpolate(scores.permute(2, 0, 1)[None], (80, 112), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(found, wanted)
    # An image that does not fill its last patches: scores of the whole grid, cut.
    found = label_pixels(scores, (37, 51), (8, 8), (37, 51))
    wanted = F.interpolate(scores.permute(2, 0, 1)[None], (40, 56), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(found, wanted[:37, :51])


def test_strips_change_nothing(monkeypatch):
    scores = torch.randn(5, 7, 3, generator=torch.Generator().manual_seed(4))
    whole = label_pixels(scores, (40, 56), (8, 8), (33, 49))
    monkeypatch.setattr("synco_hub.evaluation.patch_labels._SCORES_AT_ONCE", 500)
    assert torch.equal(label_pixels(scores, (40, 56), (8, 8), (33, 49)), whole)


# ---- the memory


def _images(count):
    def pair(index):
        streams = []
        for array in (np.asarray(_picture(32, 32, index)), np.full((32, 32), index % 2, dtype=np.uint8)):
            import io

            stream = io.BytesIO()
            Image.fromarray(array).save(stream, "PNG")
            streams.append(stream.getvalue())
        return tuple(streams)

    pairs = [pair(index) for index in range(count)]
    names = tuple(map(str, range(count)))
    return MaskedImages("x", "train", ("a", "b"), names, tuple(lambda pair=pair: pair for pair in pairs))


def test_the_memory_has_as_many_patches_as_are_asked_from_every_image_alike():
    look = _look()
    settings = SegmentationSettings(memory_size=20, device="cpu", progress=False)
    memory = PatchMemory.of(look, _images(4), 2, settings)
    assert memory.values.shape == (20, 96)
    assert memory.labels.float().sum(dim=0).tolist() == [10, 10]
    assert memory.facts() == {"memory_patches": 20, "memory_bytes": 20 * 96 * 2 + 20 * 2 * 2}
    whole = PatchMemory.of(look, _images(4), 2, SegmentationSettings(device="cpu", progress=False))
    assert len(whole.values) == 4 * 16
    ((_, _, features),) = look.features(_images(4).read(0)[0])[1]
    first = whole.values[:16].float()
    distances = torch.cdist(features.reshape(16, -1), first).min(dim=1).values
    assert distances.max() < 0.05


@pytest.mark.parametrize(("size", "fewest"), [(3, 0), (7, 1), (11, 1), (100, 14)])
def test_no_image_is_left_out_of_a_memory_that_has_room_for_all(size, fewest):
    """Each of seven images looks like no other: whose patches they are is told by the nearest of their features."""
    look, images = _look(), _images(7)
    memory = PatchMemory.of(look, images, 2, SegmentationSettings(memory_size=size, device="cpu", progress=False))
    assert len(memory.values) == size
    own = [next(look.features(images.read(index)[0])[1])[2].reshape(-1, 96) for index in range(7)]
    distances = torch.stack([torch.cdist(memory.values.float(), each).min(dim=1).values for each in own])
    assert distances.min(dim=0).values.max() < 0.05
    counts = torch.bincount(distances.argmin(dim=0), minlength=7)
    assert counts.min() == fewest
    assert counts.max() == math.ceil(size / 7)
