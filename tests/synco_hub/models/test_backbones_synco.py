import math

import pytest
import timm
import torch
from pretended_gpu import pretended_gpu
from torch import nn

from synco_hub.models import BACKBONES, SynCoConfig, SynCoModel, backbones_synco
from synco_hub.models.backbones_synco import build_backbone, find_specification, is_vision_transformer, suggest


def _on_meta(**numbers) -> nn.Module:
    with torch.device("meta"):
        return build_backbone(SynCoConfig(**numbers))


def test_table_10():
    deit, swin = BACKBONES["deit-s"], BACKBONES["swin-t"]
    assert (deit.depth, deit.embed_dim, deit.num_heads, deit.patch_size) == (12, 384, 6, 16)
    assert (swin.depth, swin.num_heads, swin.window_size) == ((2, 2, 6, 2), (3, 6, 12, 24), 7)
    widths = [stage.blocks[0].dim for stage in _on_meta(backbone="swin-t").layers]
    assert widths == [96, 192, 384, 768]


@pytest.mark.parametrize(
    ("backbone", "count"),
    [
        ("deit-s", 21_665_664),
        ("swin-t", 27_519_354),
        ("vit-b", 85_798_656),
        ("vit-l", 303_301_632),
        ("swin-b", 86_743_224),
    ],
)
def test_parameter_counts_of_the_headless_networks(backbone, count):
    assert sum(p.numel() for p in _on_meta(backbone=backbone).parameters()) == count


def test_parameter_count_of_any_vit_follows_from_its_numbers():
    dim, depth, patch, size, ratio = 48, 5, 4, 24, 3
    network = _on_meta(
        backbone="deit-s", embed_dim=dim, depth=depth, num_heads=3, patch_size=patch, image_size=size, mlp_ratio=ratio
    )
    norm = 2 * dim
    attention = dim * 3 * dim + 3 * dim + dim * dim + dim
    mlp = 2 * ratio * dim * dim + ratio * dim + dim
    embeddings = 3 * patch**2 * dim + dim + dim + (1 + (size // patch) ** 2) * dim
    expected = embeddings + depth * (2 * norm + attention + mlp) + norm
    assert sum(p.numel() for p in network.parameters()) == expected


def test_heads_are_as_wide_as_in_the_papers_of_the_architectures():
    # No weight's shape tells the number of heads. A head of ViT and DeiT has 64 channels, one of Swin 32.
    for name, own in BACKBONES.items():
        if own.family == "vit" and name != "vit-nano":
            assert own.embed_dim / own.num_heads == 64, name
        elif name != "swin-nano" and own.family == "swin":
            assert [own.embed_dim * 2**stage / heads for stage, heads in enumerate(own.num_heads)] == [32] * 4, name


def test_short_names_are_headless_networks_of_their_family():
    for name, specification in BACKBONES.items():
        network = _on_meta(backbone=name)
        assert isinstance(network.head if specification.family == "vit" else network.head.fc, nn.Identity), name
        assert is_vision_transformer(network) == (specification.family == "vit"), name
        assert sum(hasattr(m, "qkv") for m in network.modules()) == sum(
            [specification.depth] if isinstance(specification.depth, int) else specification.depth
        ), name


@pytest.mark.parametrize(
    ("timm_name", "family", "dim", "depth", "heads", "patch", "size"),
    [
        # From the models' own papers: ViT-L/16, DeiT-Ti, DeiT-III-B, Swin-L, Swin-V2-S.
        ("vit_large_patch16_384", "vit", 1024, 24, 16, 16, 384),
        ("deit_tiny_patch16_224", "vit", 192, 12, 3, 16, 224),
        ("deit3_base_patch16_224.fb_in22k_ft_in1k", "vit", 768, 12, 12, 16, 224),
        ("swin_large_patch4_window7_224", "swin", 192, (2, 2, 18, 2), (6, 12, 24, 48), 4, 224),
        ("swinv2_small_window16_256", "swin", 96, (2, 2, 18, 2), (3, 6, 12, 24), 4, 256),
        # Declared for 384 pixels, of which 27 patches of 14 cover 378.
        ("vit_so400m_patch14_siglip_384", "vit", 1152, 27, 16, 14, 378),
    ],
)
def test_timm_names_are_described_by_their_own_numbers(timm_name, family, dim, depth, heads, patch, size):
    found = find_specification(timm_name)
    assert (found.family, found.embed_dim, found.depth, found.num_heads) == (family, dim, depth, heads)
    assert (found.patch_size, found.image_size) == (patch, size)


def test_asking_for_a_timm_name_draws_no_random_numbers():
    find_specification.cache_clear()
    before = torch.random.get_rng_state()
    find_specification("deit_tiny_patch16_224")
    find_specification("swin_small_patch4_window7_224")
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_names_are_answered_with_the_nearest_ones():
    with pytest.raises(ValueError, match=r"backbone='deits' is unknown.*Did you mean 'deit-s'"):
        find_specification("deits")
    with pytest.raises(ValueError, match=r"Did you mean .*'swin_tiny_patch4_window7_224'"):
        find_specification("swin_tiny_patch4_window7_225")
    with pytest.raises(ValueError, match=r"use a short name \(deit-t, deit-s, .*\)\S* or the name of a timm") as error:
        find_specification("zzz")
    assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "pvt_v2_b0", "vit_small_r26_s32_224"])
def test_other_timm_networks_are_refused_without_building_them(name, monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: pytest.fail("was built"))
    with pytest.raises(ValueError, match=f"backbone='{name}' is neither a ViT nor a Swin.*deit-s"):
        find_specification(name)


def _eps(network) -> dict[str, float]:
    return {name: m.eps for name, m in network.named_modules() if isinstance(m, nn.LayerNorm)}


def test_layer_norm_epsilon_one_for_all():
    assert set(_eps(_on_meta(backbone="vit-nano")).values()) == {1e-6}
    assert set(_eps(_on_meta(backbone="swin-nano")).values()) == {1e-5}
    for backbone in ("vit-nano", "swin-nano", "vit_tiny_patch16_224"):
        assert set(_eps(_on_meta(backbone=backbone, layer_norm_eps=3e-4)).values()) == {3e-4}


def test_layer_norm_epsilon_for_each_kind():
    eps = {
        "block_attention": 1e-1,
        "block_mlp": 1e-2,
        "patch_embedding": 1e-3,
        "patch_merging": 1e-4,
        "final": 1e-7,
    }
    swin = _eps(_on_meta(backbone="swin-nano", layer_norm_eps=eps))
    assert swin["patch_embed.norm"] == 1e-3
    assert swin["layers.1.downsample.norm"] == 1e-4
    assert swin["norm"] == 1e-7
    for stage in range(2):
        for block in range(2):
            assert swin[f"layers.{stage}.blocks.{block}.norm1"] == 1e-1
            assert swin[f"layers.{stage}.blocks.{block}.norm2"] == 1e-2
    assert len(swin) == 1 + 1 + 1 + 8
    vit = _eps(_on_meta(backbone="vit-nano", layer_norm_eps={"block_mlp": 1e-2}))
    assert {name for name, value in vit.items() if value == 1e-2} == {f"blocks.{i}.norm2" for i in range(3)}
    assert {value for name, value in vit.items() if not name.endswith("norm2")} == {1e-6}


def test_layer_norms_of_no_kind_keep_timms_epsilon():
    vit = _eps(_on_meta(backbone="vit_base_patch32_clip_224", depth=1, layer_norm_eps={"final": 0.5}))
    assert vit["norm"] == 0.5
    assert vit["norm_pre"] == _eps(timm.create_model("vit_base_patch32_clip_224", depth=1))["norm_pre"] != 0.5
    pooled = _eps(_on_meta(backbone="vit_little_patch16_reg4_gap_256", depth=1, layer_norm_eps={"final": 0.5}))
    assert pooled["fc_norm"] == 0.5


def test_drop_path_rises_linearly_over_all_blocks():
    for backbone, blocks in (("vit-nano", 3), ("swin-nano", 4)):
        network = _on_meta(backbone=backbone, drop_path_rate=0.2)
        rates = [getattr(m.drop_path1, "drop_prob", 0.0) for m in network.modules() if hasattr(m, "drop_path1")]
        assert rates == pytest.approx([0.2 * i / (blocks - 1) for i in range(blocks)])
    assert not any(type(m).__name__ == "DropPath" for m in _on_meta(backbone="vit-nano").modules())


def test_drop_path_drops_whole_images_as_often_as_it_says():
    network = build_backbone(SynCoConfig("vit-nano", drop_path_rate=0.3)).train()
    torch.manual_seed(511)
    tokens = torch.randn(1, 17, 128).expand(4000, -1, -1)
    with torch.no_grad():
        out = network.blocks[-1].drop_path1(tokens)
    dropped = (out == 0).flatten(1).all(dim=1)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 4000) ** 0.5)
    assert torch.allclose(out[~dropped], tokens[~dropped] / 0.7)
    assert torch.equal(network.eval().blocks[-1].drop_path1(tokens), tokens)


def test_colour_channels_and_patches_reach_the_first_layer():
    assert _on_meta(backbone="vit-nano", num_channels=5, patch_size=4).patch_embed.proj.weight.shape == (96, 5, 4, 4)
    assert _on_meta(backbone="swin-nano", num_channels=1).patch_embed.proj.weight.shape == (48, 1, 2, 2)


@pytest.mark.parametrize(
    ("numbers", "bound"),
    [
        # MoCo v3: sqrt(6 / (3 * patch * patch + dim)).
        ({"backbone": "deit-s"}, 0.0722),
        ({"backbone": "vit-b"}, 0.0625),
        ({"backbone": "vit-nano", "position_embedding": "learned"}, 0.1443),
        ({"backbone": "deit-t", "num_channels": 1, "patch_size": 8, "depth": 1}, 0.1531),
    ],
)
def test_the_patch_projection_of_a_short_vit_name_is_moco_v3s(numbers, bound):
    torch.manual_seed(2)
    projection = build_backbone(SynCoConfig(**{"depth": 1, **numbers})).patch_embed.proj
    weight = projection.weight.detach().flatten()
    assert projection.bias.eq(0).all()
    assert weight.abs().max().item() == pytest.approx(bound, rel=2e-3)
    assert weight.abs().max() <= bound * 1.001
    # Uniform: the sorted weights lie on a straight line (Kolmogorov and Smirnov's distance, at 1 in 10,000).
    ranks = torch.linspace(0, 1, len(weight))
    distance = (weight.sort().values / (2 * bound) + 0.5 - ranks).abs().max().item()
    assert distance < 2.23 / math.sqrt(len(weight))


def test_the_patch_projection_of_timms_own_names_and_of_swin_is_timms():
    for name in ("vit_tiny_patch16_224", "swin-nano"):
        projection = build_backbone(SynCoConfig(name, depth=1 if "vit" in name else None)).patch_embed.proj
        assert projection.bias.abs().max() > 0
        bound = 1 / math.sqrt(projection.weight[0].numel())  # torch's default of a convolution
        assert 0.9 * bound < projection.weight.abs().max() <= bound


def test_the_patch_projection_takes_one_draw_after_timms():
    torch.manual_seed(5)
    network = build_backbone(SynCoConfig("vit-nano"))
    torch.manual_seed(5)
    timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=0,
        weight_init="moco",
        img_size=32,
        patch_size=8,
        embed_dim=96,
        depth=3,
        num_heads=3,
    )
    drawn = nn.init.xavier_uniform_(torch.empty(96, 3 * 8 * 8))
    assert torch.equal(network.patch_embed.proj.weight.flatten(1), drawn)


def test_no_fresh_network_has_weights_a_hundred_standard_deviations_out():
    # timm's `trunc_normal_` gives exactly -2.0 where its uniform number is the lowest that float32 has.
    torch.manual_seed(0)
    expected = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0).state_dict()
    torch.manual_seed(0)
    state = build_backbone(SynCoConfig("swin-t")).state_dict()
    redrawn = {name: int((value != state[name]).sum()) for name, value in expected.items()}
    assert {name: count for name, count in redrawn.items() if count} == {
        "layers.3.blocks.0.attn.qkv.weight": 1,
        "layers.3.blocks.1.attn.qkv.weight": 1,
    }
    assert all(weight.abs().max() < 0.02 * 8 for name, weight in state.items() if name.endswith("qkv.weight"))


def test_suggest_is_empty_or_a_sentence():
    assert suggest("moby", ["moby-v2", "byol", "supervised"]) == " Did you mean 'moby-v2' or 'byol'?"
    assert suggest("moby-v1", ["moby-v2", "byol"]) == " Did you mean 'moby-v2'?"
    assert suggest("qqqq", ["moby-v2", "byol"]) == ""


AUTOCAST_BACKBONES = ["vit-nano", "swin-nano", "swin-v2-t", "vit_tiny_patch16_224.augreg_in21k"]


def _small(backbone: str, **numbers) -> SynCoConfig:
    sizes = {"swin-v2-t": {"depth": [1, 1, 1, 1]}, "vit_tiny_patch16_224.augreg_in21k": {"depth": 2}}
    return SynCoConfig(backbone=backbone, **{**sizes.get(backbone, {}), **numbers})


def _types_under_autocast(backbone: str, dtype: torch.dtype) -> tuple[set[torch.dtype], set[torch.dtype], torch.dtype]:
    """Types of what norms give and what blocks give, and of the pooled feature, on a GPU under autocast."""
    model = SynCoModel(_small(backbone)).train()
    of_norms, of_blocks = set(), set()
    for name, module in model.backbone.named_modules():
        if isinstance(module, nn.LayerNorm) and name not in ("norm", "fc_norm"):
            module.register_forward_hook(lambda _module, _inputs, output: of_norms.add(output.dtype))
        elif type(module).__name__.endswith("Block"):
            module.register_forward_hook(
                lambda _module, inputs, output: of_blocks.update({inputs[0].dtype, output.dtype})
            )
    images = torch.randn(2, 3, model.config.image_size, model.config.image_size)
    before = torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", dtype)
    try:
        with torch.no_grad(), pretended_gpu() as gpu:
            gpu.put(model)
            feature = model(gpu.put(images)).pooler_output
    finally:
        torch.set_autocast_dtype("cuda", before)
        torch.set_autocast_enabled("cuda", False)
    return of_norms, of_blocks, feature.dtype


@pytest.mark.parametrize("backbone", AUTOCAST_BACKBONES)
def test_norms_and_residuals_are_bfloat16_on_a_gpu_and_the_feature_is_float32(backbone):
    assert _types_under_autocast(backbone, torch.bfloat16) == ({torch.bfloat16}, {torch.bfloat16}, torch.float32)


def test_in_float16_whose_range_is_short_norms_are_left_to_autocast():
    assert _types_under_autocast("vit-nano", torch.float16) == ({torch.float32}, {torch.float32}, torch.float32)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_on_a_cpu_norms_are_timms_bit_for_bit(backbone, autocast):
    network = build_backbone(_small(backbone)).eval()
    plain = build_backbone(_small(backbone)).eval()
    plain.load_state_dict(network.state_dict())
    for module in plain.modules():
        if isinstance(module, backbones_synco.LayerNormKeepingBFloat16):
            module.__class__ = nn.LayerNorm
    plain.norm_pre = nn.Identity()
    assert list(network.state_dict()) == list(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(network(images), plain(images))


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_bfloat16_norms_and_residuals_give_the_features_up_to_their_rounding(backbone, monkeypatch):
    network = build_backbone(_small(backbone)).eval()
    images = torch.randn(8, 3, 32, 32)
    exact = network(images)
    monkeypatch.setattr(backbones_synco, "KEEPS_BFLOAT16_ON", {"cpu"})
    with torch.autocast("cpu", torch.bfloat16):
        reduced = network(images)
    assert not torch.equal(reduced, exact)
    # Each of the dozen roundings is one of 2 ** -9; they are independent.
    assert (reduced - exact).norm() < 0.02 * exact.norm()
    (reduced.float() ** 2).sum().backward()
    assert all(parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in network.parameters())


def test_timms_own_switch_of_fast_norms_keeps_its_effect():
    timm.layers.set_fast_norm(True)
    try:
        network = build_backbone(_small("vit-nano"))
    finally:
        timm.layers.set_fast_norm(False)
    assert type(network.blocks[0].norm1) is timm.layers.LayerNorm
