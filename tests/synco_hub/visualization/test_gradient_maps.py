"""Grad-CAM against captum, closed forms and a network taken apart by hand; saliency against finite differences.

And which number is differentiated, and what it is called.
"""

import threading

import pytest
import timm
import torch
from captum.attr import LayerGradCam, Saliency
from transformers import SwinConfig, SwinForImageClassification, SwinModel
from transformers.utils.constants import IMAGENET_DEFAULT_STD

from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel
from synco_hub.visualization import ClassFeatures, class_score, grad_cam, gradient_maps
from synco_hub.visualization.gradient_maps import FEATURE_NORM


def swins() -> dict[str, torch.nn.Module]:
    torch.manual_seed(0)
    ours = SynCoForImageClassification(SynCoConfig(backbone="swin-nano", num_labels=5))
    stock = SwinForImageClassification(
        SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, num_labels=5
        )
    )
    return {"ours": ours.eval(), "transformers": stock.eval()}


@pytest.mark.parametrize("name", ["ours", "transformers"])
def test_cam_of_a_swin_with_a_linear_head_is_cam_in_closed_form(name):
    """The head is linear in the mean of the map, so the weights of the channels are the classifier's own row."""
    model, pixels = swins()[name], torch.randn(2, 3, 32, 32)
    torch.nn.init.normal_(model.classifier.weight)
    base = model.base_model
    with torch.no_grad():
        hidden = base(pixels).last_hidden_state  # (batch, tokens, dim)
        chosen = model(pixels).logits.argmax(dim=1)
    expected = (hidden @ model.classifier.weight[chosen][:, :, None]).relu()[..., 0] / hidden.shape[1]
    expected = expected.detach()
    maps = gradient_maps(model, pixels)
    torch.testing.assert_close(maps.cam.flatten(1), expected)
    assert maps.cam.shape[1] == maps.cam.shape[2]
    assert not any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_cam_without_a_classifier_in_closed_form(size):
    torch.manual_seed(0)
    model, pixels = SynCoModel(SynCoConfig(backbone="swin-nano")).eval(), torch.randn(2, 3, *size)
    with torch.no_grad():
        output = model(pixels, interpolate_pos_encoding=True)
    hidden, feature = output.last_hidden_state, output.pooler_output
    direction = feature / feature.norm(dim=1, keepdim=True) / hidden.shape[1]
    expected = torch.einsum("bnd,bd->bn", hidden, direction).relu()
    maps = gradient_maps(model, pixels)
    torch.testing.assert_close(maps.cam.flatten(1), expected)
    assert maps.cam.shape[2] / maps.cam.shape[1] == size[1] / size[0]
    classes = ClassFeatures(torch.randn(3, feature.shape[1]), ["a", "b", "c"])
    assert "nearest class" in gradient_maps(model, pixels, classes=classes).scores[0]


def test_cam_of_a_vit_taken_apart_by_hand():
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=(16, 24), patch_size=8, embed_dim=12, depth=2, num_heads=2, num_classes=3
    ).eval()
    pixels = torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        tokens = model._pos_embed(model.patch_embed(pixels))
        tokens = model.blocks[0](model.norm_pre(tokens))
        leaf = model.blocks[1].norm1(tokens)
    leaf.requires_grad_()
    block = model.blocks[1]
    after = tokens + block.attn(leaf)
    after = after + block.mlp(block.norm2(after))
    logits = model.head(model.norm(after)[:, 0])
    logits.max().backward()
    patches, gradient = leaf.detach()[0, 1:], leaf.grad[0, 1:]
    expected = torch.zeros(6)
    for channel in range(12):
        expected += gradient[:, channel].mean() * patches[:, channel]
    torch.testing.assert_close(gradient_maps(model, pixels).cam, expected.clamp_min(0).reshape(1, 2, 3))


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_saliency_equals_finite_differences_of_the_image_before_normalisation(backbone):
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone=backbone)).eval().double()
    pixels = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    saliency = gradient_maps(model, pixels).saliency[0]
    std, step = torch.tensor(IMAGENET_DEFAULT_STD, dtype=torch.float64), 1e-5
    for row, column in [(0, 0), (5, 17), (31, 30)]:
        change = torch.zeros(6, 3, 32, 32, dtype=torch.float64)
        for channel in range(3):
            change[2 * channel, channel, row, column] = step / std[channel]
            change[2 * channel + 1, channel, row, column] = -step / std[channel]
        with torch.no_grad():
            norms = model(pixels + change).pooler_output.norm(dim=1)
        slopes = (norms[0::2] - norms[1::2]) / (2 * step)
        assert float(saliency[row, column]) == pytest.approx(float(slopes.abs().mean()), rel=1e-4, abs=1e-8)


def test_images_of_a_batch_do_not_mix_and_no_grad_outside_does_not_matter():
    torch.manual_seed(0)
    model, pixels = SynCoModel(SynCoConfig(backbone="swin-nano")).train(), torch.randn(3, 3, 32, 32)
    model.requires_grad_(False)
    with torch.no_grad():
        together = gradient_maps(model, pixels)
    alone = gradient_maps(model, pixels[1:2])
    torch.testing.assert_close(together.cam[1:2], alone.cam)
    torch.testing.assert_close(together.saliency[1:2], alone.saliency)
    assert model.training


def test_grad_cam_as_a_loop_and_a_stock_swin_without_head():
    generator = torch.Generator().manual_seed(0)
    features, gradient = (torch.randn(2, 3, 4, 5, generator=generator) for _ in range(2))
    found = grad_cam(features, gradient)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                total = sum(
                    float(gradient[image, :, :, d].mean()) * float(features[image, row, column, d]) for d in range(5)
                )
                assert float(found[image, row, column]) == pytest.approx(max(total, 0.0), abs=1e-5)
    swin = SwinModel(
        SwinConfig(image_size=32, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4)
    )
    assert gradient_maps(swin, torch.randn(1, 3, 32, 32)).cam.shape == (1, 8, 8)


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_cam_and_saliency_are_those_of_captum(backbone):
    torch.manual_seed(1)
    model = SynCoForImageClassification(SynCoConfig(backbone=backbone, num_labels=4)).eval()
    torch.nn.init.normal_(model.classifier.weight)
    pixels = torch.randn(3, 3, 32, 32)
    network = model.synco.backbone

    def logits(images):
        return model(images).logits

    with torch.no_grad():
        chosen = logits(pixels).argmax(dim=1)
    # captum wants channels in the second axis, and knows of no [CLS] token: only the patches pass its layer.
    layer, prefix = torch.nn.Identity(), int(backbone == "vit-nano")
    holder, name = (network.blocks[-1], "norm1") if prefix else (network, "norm")
    original = getattr(holder, name)

    class Split(torch.nn.Module):
        def forward(self, features):
            tokens = original(features)
            patches = layer(tokens[:, prefix:].movedim(-1, 1)).movedim(1, -1)
            return torch.cat([tokens[:, :prefix], patches], dim=1)

    setattr(holder, name, Split())
    expected = LayerGradCam(logits, layer).attribute(pixels, target=chosen, relu_attributions=True).detach()
    setattr(holder, name, original)
    maps = gradient_maps(model, pixels)
    torch.testing.assert_close(maps.cam.flatten(1), expected.flatten(1), rtol=1e-4, atol=1e-6)
    saliency = Saliency(logits).attribute(pixels, target=chosen, abs=True)
    expected = (saliency / torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None]).mean(dim=1)
    torch.testing.assert_close(maps.saliency, expected, rtol=1e-4, atol=1e-6)


def test_threads_that_share_a_model_get_their_own_maps():
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="swin-nano")).eval().requires_grad_(False)
    images = [torch.randn(1, 3, 32, 32) for _ in range(4)]
    expected = [gradient_maps(model, image) for image in images]
    together, wrong = threading.Barrier(4), []

    def look(number: int) -> None:
        together.wait()
        for _ in range(15):
            try:
                found = gradient_maps(model, images[number])
                if not torch.allclose(found.cam, expected[number].cam, atol=1e-6):
                    wrong.append(number)
            except RuntimeError as error:
                wrong.append(error)

    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_classifier_gives_the_logit_of_the_predicted_class():
    torch.manual_seed(0)
    config = SynCoConfig(backbone="vit-nano", num_labels=3, id2label={0: "fern", 1: "tree", 2: "carpet"})
    model, pixels = SynCoForImageClassification(config).eval(), torch.randn(4, 3, 32, 32)
    torch.nn.init.normal_(model.classifier.weight)
    score = class_score(model, pixels)
    logits = model(pixels).logits
    torch.testing.assert_close(score.values, logits.max(dim=1).values)
    names = [("fern", "tree", "carpet")[index] for index in logits.argmax(dim=1)]
    assert score.descriptions == [f"score of predicted class {name}" for name in names]
    second = class_score(model, pixels, target=1)
    torch.testing.assert_close(second.values, logits[:, 1])
    assert second.descriptions == ["score of class tree"] * 4
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=f"target={wrong} is no class: there are 3"):
            class_score(model, pixels, target=wrong)


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_without_a_classifier_it_is_the_nearest_class_or_the_norm_and_says_so(backbone):
    torch.manual_seed(0)
    model, pixels = SynCoModel(SynCoConfig(backbone=backbone)).eval(), torch.randn(3, 3, 32, 32)
    features = model(pixels).pooler_output
    norm = class_score(model, pixels)
    torch.testing.assert_close(norm.values, features.square().sum(1).sqrt())
    assert norm.descriptions == [FEATURE_NORM] * 3
    classes = ClassFeatures(torch.randn(5, features.shape[1]), list("abcde"))
    nearest = class_score(model, pixels, classes=classes)
    cosines = torch.nn.functional.cosine_similarity(features[:, None], classes.features[None], dim=-1)
    torch.testing.assert_close(nearest.values, cosines.max(dim=1).values)
    assert nearest.descriptions == [f"similarity to nearest class {'abcde'[i]}" for i in cosines.argmax(dim=1)]
    with pytest.raises(ValueError, match="no classifier"):
        class_score(model, pixels, target=0)


def test_timm_models_with_and_without_a_head():
    torch.manual_seed(0)
    settings = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    headed = timm.create_model("vit_tiny_patch16_224", num_classes=4, **settings).eval()
    bare = timm.create_model("vit_tiny_patch16_224", num_classes=0, **settings).eval()
    pixels = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(class_score(headed, pixels).values, headed(pixels).max(dim=1).values)
    torch.testing.assert_close(class_score(bare, pixels).values, bare(pixels).norm(dim=1))
