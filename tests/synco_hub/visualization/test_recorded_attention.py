"""Attention and keys under fused kernels equal what the eager implementations and the layers give themselves."""

import threading
from typing import Any

import pytest
import timm
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTModel

from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel
from synco_hub.visualization.recorded_attention import last_attention, last_keys

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def images(height: int = 32, width: int = 32, count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def with_lively_weights(model: nn.Module) -> nn.Module:
    """Fresh weights attend almost evenly, which would hide a missing scale or norm."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def synco(**change: Any) -> Any:
    config = {"backbone": "deit-s", "image_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}
    return with_lively_weights(SynCoModel(SynCoConfig(**{**config, **change})))


def stock(family: str, **change: Any) -> Any:
    config = getattr(transformers, f"{family}Config")(**SMALL, **change)
    return with_lively_weights(getattr(transformers, f"{family}Model")(config))


@pytest.mark.parametrize("size", [(32, 32), (40, 64)])
@pytest.mark.parametrize(
    ("family", "prefix", "change"),
    [
        ("ViT", 1, {}),
        ("ViTMSN", 1, {}),
        ("DeiT", 2, {}),
        ("Dinov2", 1, {}),
        ("Dinov2WithRegisters", 3, {"num_register_tokens": 2}),
        ("DINOv3ViT", 3, {"num_register_tokens": 2}),
    ],
)
def test_stock_transformers_equal_their_eager_attention(
    family: str, prefix: int, change: dict[str, int], size: tuple[int, int]
) -> None:
    model = stock(family, **change)
    assert model.config._attn_implementation == "sdpa"
    fused = last_attention(model, images(*size))
    model.set_attn_implementation("eager")
    model.eval()
    interpolates = size != (32, 32) and "ino" not in family.lower()
    extra = {"interpolate_pos_encoding": True} if interpolates else {}
    with torch.no_grad():
        expected = model(images(*size), output_attentions=True, **extra).attentions[-1]
    assert fused.weights.shape == (2, 4, *[prefix + size[0] // 8 * (size[1] // 8)] * 2)
    assert (fused.weights - expected).abs().max() < 1e-5
    assert (last_attention(model, images(*size)).weights - expected).abs().max() < 1e-6
    assert (fused.grid, fused.num_prefix_tokens) == ((size[0] // 8, size[1] // 8), prefix)


@pytest.mark.parametrize("size", [(32, 32), (24, 64)])
def test_synco_equals_its_own_last_attention(size: tuple[int, int]) -> None:
    model = synco()
    fused = last_attention(model, images(*size))
    model.set_attn_implementation("eager")
    model.eval()
    with torch.no_grad():
        outputs = model(images(*size), output_attentions=True, interpolate_pos_encoding=size != (32, 32))
    assert (fused.weights - outputs.attentions[-1]).abs().max() < 1e-5
    # The last block, no other one.
    assert (fused.weights - outputs.attentions[-2]).abs().max() > 1e-2


def test_a_classifier_shows_its_backbone() -> None:
    classifier = SynCoForImageClassification(synco().config)
    assert torch.equal(
        last_attention(classifier, images()).weights, last_attention(classifier.synco, images()).weights
    )


@pytest.mark.parametrize(
    "change", [{}, {"qk_norm": True}, {"reg_tokens": 3}, {"class_token": True, "num_heads": 1}, {"global_pool": "map"}]
)
def test_timm_equals_softmax_of_its_unfused_blocks(change: dict[str, Any]) -> None:
    model = with_lively_weights(
        timm.create_model(
            "vit_tiny_patch16_224",
            pretrained=False,
            **{"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, **change},
        )
    )
    fused = last_attention(model, images())
    seen: list[Tensor] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model.eval()(images())
    assert (fused.weights - seen[-1]).abs().max() < 1e-5
    assert fused.num_prefix_tokens == 1 + change.get("reg_tokens", 0)


@pytest.mark.parametrize("enable_gqa", [False, True])
@pytest.mark.parametrize("mask", [None, "boolean", "additive"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_every_argument_of_the_fused_kernel_counts(scale: float | None, mask: str | None, enable_gqa: bool) -> None:
    """Identity matrices as values make the fused kernel itself return its weights."""
    generator = torch.Generator().manual_seed(7)
    query = torch.randn(2, 4, 17, 8, generator=generator)
    key = torch.randn(2, 2 if enable_gqa else 4, 17, 8, generator=generator)
    value = torch.eye(17).expand(2, key.shape[1], 17, 17)
    seen_or_not = torch.rand(2, 1, 17, 17, generator=generator) > 0.3
    seen_or_not[..., 0] = True
    attn_mask = {None: None, "boolean": seen_or_not, "additive": torch.randn(17, 17, generator=generator)}[mask]
    results: list[Tensor] = []

    class OneKernel(nn.Module):
        config = transformers.ViTConfig(**SMALL)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, pixel_values: Tensor) -> None:
            results.append(
                F.scaled_dot_product_attention(
                    query, key, value, attn_mask=attn_mask, scale=scale, enable_gqa=enable_gqa
                )
            )
            # Attention pooling and class scores come after the last block and are not it.
            F.scaled_dot_product_attention(query[:, :, :1], query, query)
            torch.randn(2, 5).softmax(dim=-1)

    weights = last_attention(OneKernel(), images()).weights
    torch.testing.assert_close(weights, results[0], rtol=1e-5, atol=1e-6)


def test_rows_sum_to_one_and_the_model_is_left_as_it_was() -> None:
    model = synco(drop_path_rate=0.5).train()
    first, second = last_attention(model, images()), last_attention(model, images())
    torch.testing.assert_close(first.weights.sum(dim=-1), torch.ones(2, 4, 17))
    assert torch.equal(first.weights, second.weights)
    assert model.training
    assert not first.weights.requires_grad


def test_half_precision_weights_give_float32_attention() -> None:
    expected = last_attention(synco(), images()).weights
    half = last_attention(synco().bfloat16(), images().bfloat16()).weights
    assert half.dtype == torch.float32
    assert (half - expected).abs().mean() < 0.02


def test_compiled_models_are_looked_into() -> None:
    model = synco()
    expected = last_attention(model, images()).weights
    assert torch.equal(last_attention(torch.compile(model, backend="eager"), images()).weights, expected)


def test_threads_do_not_see_each_other() -> None:
    model = synco().eval()
    expected = [last_attention(model, images(seed=seed)).weights for seed in range(4)]
    seen: dict[int, Tensor] = {}

    def look(seed: int) -> None:
        for _ in range(5):
            seen[seed] = last_attention(model, images(seed=seed)).weights

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, weights in enumerate(expected):
        torch.testing.assert_close(seen[seed], weights)


def swins() -> dict[str, nn.Module]:
    small = {"image_size": 32, "window_size": 4, "embed_dim": 8, "num_heads": [2, 2]}
    return {
        "synco": SynCoModel(SynCoConfig(backbone="swin-t", patch_size=2, depth=[1, 1], **small)),
        "stock": transformers.SwinModel(transformers.SwinConfig(patch_size=4, depths=[1, 1], **small)),
        "timm": timm.create_model(
            "swin_tiny_patch4_window7_224", pretrained=False, img_size=56, embed_dim=8, depths=(1, 1), num_heads=(1, 2)
        ),
    }


@pytest.mark.parametrize("kind", ["synco", "stock", "timm"])
def test_a_swin_is_refused_with_a_way_out(kind: str) -> None:
    with pytest.raises(ValueError, match=r"is a Swin, which attends within windows.* Grad-CAM"):
        last_attention(swins()[kind], images())


@pytest.mark.parametrize(
    ("model", "pixel_values", "message"),
    [
        (lambda: stock("IJepa"), images(), r"no \[CLS\] token beside the 4x4 patches"),
        (lambda: stock("ViT"), images()[0], r"shape \(3, 32, 32\)"),
        (lambda: stock("ViT"), images(4, 32), "image is 4x32, smaller than one patch of 8x8"),
        (lambda: timm.create_model("resnet18", pretrained=False), images(), "names no patch size"),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=1),
            images(),
            "image is 32x32, the timm model was built for 224x224",
        ),
    ],
)
def test_bad_input_is_refused(model: Any, pixel_values: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        last_attention(model(), pixel_values)


def test_a_kernel_that_hides_its_weights_is_refused() -> None:
    class Hidden(nn.Module):
        config = transformers.ViTConfig(**SMALL)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, pixel_values: Tensor) -> Tensor:
            return pixel_values * self.weight

    with pytest.raises(ValueError, match="no attention over all tokens was seen in Hidden"):
        last_attention(Hidden(), images())


SMALL_VIT = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def keys_by_hand(backbone, hidden):
    """The middle third of the fused projection of the last block's normalised input, [CLS] left out."""
    block = backbone.blocks[-1]
    keys = block.attn.qkv(block.norm1(hidden)).chunk(3, dim=-1)[1]
    return keys[:, 1:]


@pytest.mark.parametrize("size", [(32, 32), (40, 64)])
def test_keys_are_the_last_block_s_own(size):
    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig(backbone="vit-nano")).train()
    pixels = torch.randn(2, 3, *size)
    found = last_keys(model, pixels)
    assert model.training
    with torch.no_grad():
        hidden = model.eval()(pixels, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states[-2]
        expected = keys_by_hand(model.backbone, hidden)
    assert found.shape == (2, size[0] // 8, size[1] // 8, 96)
    assert torch.allclose(found.flatten(1, 2), expected, atol=1e-5)


def test_other_libraries_and_heads():
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 32, 32)
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=3).eval()
    assert last_keys(network, pixels).shape == (1, 2, 2, 192)
    native = ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL_VIT), add_pooling_layer=False).eval()
    assert last_keys(native, pixels).shape == (1, 4, 4, 12)
    with_head = SynCoForImageClassification(SynCoConfig(backbone="vit-nano", depth=1))
    assert torch.equal(last_keys(with_head, pixels), last_keys(with_head.synco, pixels))


def test_models_whose_keys_are_not_to_be_seen_are_refused():
    pixels = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="is a Swin"):
        last_keys(SynCoModel(SynCoConfig(backbone="swin-nano")), pixels)
    eager = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1))
    eager.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="sdpa"):
        last_keys(eager, pixels)
