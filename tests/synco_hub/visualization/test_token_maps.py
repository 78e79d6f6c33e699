"""Tokens against the models' own outputs; components against scikit-learn; similarity against a loop.

The foreground finds planted objects; its cut is the generalised eigenproblem of scipy, regions are scipy's.
"""

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import timm
import torch
from sklearn.decomposition import PCA
from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel, SwinConfig, SwinModel

from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel
from synco_hub.visualization import class_similarity, foreground_mask, patch_similarity, principal_colours, token_map


def random_tokens(seed: int, shape: tuple[int, ...] = (2, 5, 4, 9)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).exp() * torch.linspace(3, 0.5, shape[-1]) + 2


@pytest.mark.parametrize(("backbone", "grid"), [("vit-nano", (4, 6)), ("swin-nano", None)])
def test_tokens_are_the_last_hidden_state_on_its_grid(backbone, grid):
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone=backbone)).eval()
    pixels = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        hidden = model(pixels, interpolate_pos_encoding=True).last_hidden_state
    tokens = token_map(model, pixels)
    if grid:
        assert tokens.shape[1:3] == grid
        hidden = hidden[:, 1:]
    assert tokens.shape[1] < tokens.shape[2]
    assert torch.equal(tokens.flatten(1, 2), hidden)
    headed = SynCoForImageClassification(model.config).eval()
    headed.synco.load_state_dict(model.state_dict())
    assert torch.equal(token_map(headed, pixels), tokens)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_convolutional_networks_of_timm_keep_rows_and_columns(name):
    network = timm.create_model(name, num_classes=0).eval()
    for size in (160, 96):
        pixels = torch.randn(1, 3, size, 2 * size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = network.forward_features(pixels)
        found = token_map(network, pixels)
        assert found.shape[1:3] == expected.shape[2:]
        torch.testing.assert_close(found[0, 0, 1], expected[0, :, 0, 1])


def test_stock_models_lose_their_registers_and_keep_their_grid():
    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, num_register_tokens=3
    )
    model, pixels = Dinov2WithRegistersModel(config).eval(), torch.randn(1, 3, 28, 42)
    with torch.no_grad():
        hidden = model(pixels).last_hidden_state
    assert torch.equal(token_map(model, pixels).flatten(1, 2), hidden[:, 4:])
    swin = SwinModel(
        SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    )
    assert token_map(swin, torch.randn(1, 3, 32, 32)).shape == (1, 8, 8, 16)
    network = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, embed_dim=8, depths=(1, 1), num_heads=(1, 2), num_classes=0
    ).eval()
    assert token_map(network, torch.randn(1, 3, 56, 56)).shape == (1, 7, 7, 16)


@pytest.mark.parametrize("seed", [0, 1])
def test_colours_are_the_components_of_scikit_learn(seed):
    tokens = random_tokens(seed)
    colours = principal_colours(tokens).reshape(-1, 3).numpy()
    scores = PCA(3).fit_transform(tokens.double().reshape(-1, 9).numpy())
    scores *= np.sign((scores**3).sum(axis=0))
    np.testing.assert_allclose(colours, np.clip(0.5 + scores / scores.std(axis=0) / 5, 0, 1), atol=1e-6)


def test_sign_and_scale_are_stable():
    tokens = random_tokens(3)
    colours = principal_colours(tokens)
    turn, _ = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0)).double())
    for other in (tokens * 1000, tokens * 1e-3, tokens + 7, (tokens.double() @ turn)):
        torch.testing.assert_close(principal_colours(other), colours, atol=2e-4, rtol=0)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    shuffled = tokens.reshape(1, 40, 1, 9)[:, torch.cat([order, order + 20])]
    assert torch.allclose(principal_colours(shuffled)[0, :20, 0], colours[0].reshape(20, 3)[order], atol=1e-5)


def test_what_has_no_components_is_grey():
    assert torch.equal(principal_colours(torch.ones(1, 3, 3, 5)), torch.full((1, 3, 3, 3), 0.5))
    one = principal_colours(torch.tensor([[0.0], [1.0], [4.0]]).reshape(1, 3, 1, 1))
    assert torch.equal(one[..., 1:], torch.full((1, 3, 1, 2), 0.5))
    assert one[0, :, 0, 0].tolist() == sorted(one[0, :, 0, 0].tolist())


def test_similarity_equals_a_loop():
    tokens = random_tokens(5)
    found = patch_similarity(tokens, 3, 1).numpy()
    for image in range(2):
        chosen = tokens[image, 3, 1].double().numpy()
        for row in range(5):
            for column in range(4):
                other = tokens[image, row, column].double().numpy()
                cosine = chosen @ other / np.sqrt((chosen @ chosen) * (other @ other))
                assert found[image, row, column] == pytest.approx(cosine, abs=1e-5)
    assert found[:, 3, 1] == pytest.approx([1, 1], abs=1e-6)
    with pytest.raises(ValueError, match=r"\(5, 0\) is outside the 5x4 grid"):
        patch_similarity(tokens, 5, 0)


def planted(object_mask: np.ndarray, seed: int, noise: float = 0.3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(2, 32, generator=generator)
    chosen = directions[torch.from_numpy(object_mask).long()]
    return (chosen + noise * torch.randn(*object_mask.shape, 32, generator=generator))[None]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("common", [0.0, 10.0])
def test_a_planted_object_is_found_also_under_a_common_part_of_all_tokens(seed, common):
    mask = np.zeros((9, 12), dtype=bool)
    mask[2:6, 3:7] = True
    tokens = planted(mask, seed) + common
    assert np.array_equal(foreground_mask(tokens)[0].numpy(), mask)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("centred", [True, False])
def test_the_mask_is_token_cut_by_scipy(seed, centred):
    tokens = torch.randn(1, 5, 6, 4, generator=torch.Generator().manual_seed(seed))
    flat = tokens[0].reshape(30, 4).double().numpy()
    flat = flat - flat.mean(0) if centred else flat
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    weights = np.where(flat @ flat.T > 0.2, 1.0, 1e-5)
    degrees = np.diag(weights.sum(1))
    _, vectors = scipy.linalg.eigh(degrees - weights, degrees, subset_by_index=[1, 1])
    vector = vectors[:, 0]
    side = vector > vector.mean()
    seed_patch = np.argmax(np.abs(vector))
    side = side if side[seed_patch] else ~side
    regions, _ = scipy.ndimage.label(side.reshape(5, 6))
    expected = regions == regions.flat[seed_patch]
    assert np.array_equal(foreground_mask(tokens, centred=centred)[0].numpy(), expected)


def test_images_of_a_batch_do_not_see_each_other_and_bad_settings_are_refused():
    tokens = torch.cat([torch.randn(1, 4, 4, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)])
    together = foreground_mask(tokens)
    for index in range(3):
        assert torch.equal(foreground_mask(tokens[index : index + 1])[0], together[index])
    with pytest.raises(ValueError, match="threshold=1"):
        foreground_mask(tokens, 1.0)
    with pytest.raises(ValueError, match="cannot be cut in two"):
        foreground_mask(tokens[:, :1, :1])


def test_a_class_is_as_alike_as_its_most_similar_patch_and_one_without_patches_is_least():
    tokens = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(9))
    found = class_similarity(tokens, [(0, 1), (3, 4), (2, 2)], [0, 0, 2])
    for row in range(4):
        for column in range(5):
            alike = [
                float(torch.nn.functional.cosine_similarity(tokens[0, row, column], tokens[0, r, c], dim=0))
                for r, c in ((0, 1), (3, 4), (2, 2))
            ]
            wanted = torch.tensor([max(alike[:2]), -1.0, alike[2]])
            torch.testing.assert_close(found[:, row, column], wanted, rtol=1e-4, atol=1e-5)
