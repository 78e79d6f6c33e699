import math
from types import SimpleNamespace

import pytest
import timm
import torch
from small_networks import SWIN_V2
from torch import nn
from torch.nn import functional as F

from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel

KINDS = {"vit": {"backbone": "vit-nano"}, "swin": {"backbone": "swin-nano"}, "swin-v2": SWIN_V2}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _model(kind: str, seed: int, cls: type = SynCoModel, **numbers) -> SynCoModel:
    """A small network whose every parameter matters: initial biases are zero and Swin's tables all but zero."""
    torch.manual_seed(seed)
    model = cls(SynCoConfig(**{**KINDS[kind], **numbers})).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def _images(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


# ---- timm's initialisation survives


@pytest.mark.parametrize(
    ("config", "timm_name", "arguments"),
    [
        ({"backbone": "deit-s"}, "vit_small_patch16_224", {"weight_init": "moco"}),
        (
            {"backbone": "vit-nano", "position_embedding": "learned"},
            "vit_tiny_patch16_224",
            {"weight_init": "moco", "img_size": 32, "patch_size": 8, "embed_dim": 96, "depth": 3, "num_heads": 3},
        ),
        ({"backbone": "vit_tiny_patch16_224", "drop_path_rate": 0.2}, "vit_tiny_patch16_224", {"drop_path_rate": 0.2}),
        ({"backbone": "swin_tiny_patch4_window7_224"}, "swin_tiny_patch4_window7_224", {}),
        (
            {"backbone": "swin-nano"},
            "swin_tiny_patch4_window7_224",
            {
                "img_size": 32,
                "patch_size": 2,
                "embed_dim": 48,
                "depths": (2, 2),
                "num_heads": (2, 4),
                "window_size": 4,
            },
        ),
        (
            SWIN_V2,
            "swinv2_tiny_window8_256",
            {
                "img_size": 32,
                "patch_size": 2,
                "embed_dim": 24,
                "depths": (2, 2),
                "num_heads": (2, 4),
                "window_size": 4,
            },
        ),
    ],
)
def test_timms_initialisation_survives_bit_for_bit(config, timm_name, arguments):
    torch.manual_seed(2024)
    expected = timm.create_model(timm_name, num_classes=0, **arguments).state_dict()
    torch.manual_seed(2024)
    model = SynCoModel(SynCoConfig(**config))
    state = model.backbone.state_dict()
    assert state.keys() == expected.keys()
    # Exactly 2.0 is where `trunc_normal_` ends, a hundred standard deviations out; those few are drawn again.
    kept = {name: value.abs() != 2.0 for name, value in expected.items()}
    different = {
        name for name, value in expected.items() if not torch.equal(value[kept[name]], state[name][kept[name]])
    }
    fixed = {"pos_embed"} if model.config.position_embedding == "sincos" else set()
    projection = {"patch_embed.proj.weight", "patch_embed.proj.bias"} if "weight_init" in arguments else set()
    assert different == fixed | projection
    assert {n for n, p in model.backbone.named_parameters() if not p.requires_grad} == fixed


def test_a_classifier_on_top_does_not_disturb_it():
    torch.manual_seed(7)
    alone = SynCoModel(SynCoConfig("swin-nano")).state_dict()
    torch.manual_seed(7)
    below = SynCoForImageClassification(SynCoConfig("swin-nano")).synco.state_dict()
    assert all(torch.equal(value, below[name]) for name, value in alone.items())


# ---- the forward, by another route


def _by_hand(model: SynCoModel, images: torch.Tensor) -> SimpleNamespace:
    """Run timm's parts one by one."""
    backbone = model.backbone
    with torch.no_grad():
        hidden = backbone.patch_embed(images)
        if hasattr(backbone, "blocks"):
            hidden = hidden.flatten(1, 2) if hidden.ndim == 4 else hidden
            hidden = torch.cat([backbone.cls_token.expand(len(images), -1, -1), hidden], dim=1) + backbone.pos_embed
        states = [hidden]
        for part in backbone.blocks if hasattr(backbone, "blocks") else backbone.layers:
            states.append(part(states[-1]))
        last = backbone.norm(states[-1])
    sequences = [s.reshape(len(images), -1, s.shape[-1]) for s in (*states, last)]
    pooled = sequences[-1][:, 0] if hasattr(backbone, "blocks") else sequences[-1].mean(dim=1)
    return SimpleNamespace(hidden_states=sequences[:-1], last=sequences[-1], pooled=pooled)


@every_kind
def test_outputs_equal_timms_parts_run_one_by_one(kind):
    model, images = _model(kind, seed=11), _images(12)
    with torch.no_grad():
        output = model(images, output_hidden_states=True)
    expected = _by_hand(model, images)
    assert len(output.hidden_states) == (4 if kind == "vit" else 3)
    for found, wanted in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(output.last_hidden_state, expected.last, rtol=0, atol=0)
    torch.testing.assert_close(output.pooler_output, expected.pooled, rtol=1e-5, atol=1e-6)
    assert output.pooler_output.shape == (2, model.config.hidden_size)
    assert output.attentions is None


def _relative_bias_by_hand(attention: nn.Module, side: int) -> torch.Tensor:
    """Bias of each pair of places of a window. Shape: (heads, side², side²)."""
    places = [(row, column) for row in range(side) for column in range(side)]
    bias = torch.empty(attention.num_heads, side**2, side**2)
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            down, right = row - other_row, column - other_column
            if hasattr(attention, "relative_position_bias_table"):
                index = (down + side - 1) * (2 * side - 1) + right + side - 1
                bias[:, i, j] = attention.relative_position_bias_table[index]
            else:
                offset = [8 * d / (side - 1) for d in (down, right)]
                logarithmic = [math.copysign(math.log2(1 + abs(o)) / 3, o) for o in offset]
                bias[:, i, j] = 16 * torch.sigmoid(attention.cpb_mlp(torch.tensor(logarithmic)))
    return bias


def _may_attend_by_hand(grid: int, side: int, shift: int) -> torch.Tensor:
    """Which pairs of a window were neighbours before the cyclic shift. Shape: (windows, side², side²)."""
    windows = []
    for top in range(0, grid, side):
        for left in range(0, grid, side):
            wrapped = [
                (r + shift >= grid, c + shift >= grid)
                for r in range(top, top + side)
                for c in range(left, left + side)
            ]
            windows.append([[a == b for b in wrapped] for a in wrapped])
    return torch.tensor(windows)


def _attention_by_hand(block: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Softmax of the scaled, biased and masked products of query and key."""
    attention = block.attn
    batch, tokens, width = inputs.shape
    weight, bias = attention.qkv.weight, attention.qkv.bias
    if bias is None:  # the second Swin has no key bias
        bias = torch.cat([attention.q_bias, torch.zeros(width), attention.v_bias])
    query, key = (
        F.linear(inputs, weight[rows], bias[rows]).view(batch, tokens, attention.num_heads, -1).transpose(1, 2)
        for rows in (slice(0, width), slice(width, 2 * width))
    )
    if hasattr(attention, "logit_scale"):
        query, key = query / query.norm(dim=-1, keepdim=True), key / key.norm(dim=-1, keepdim=True)
        logits = torch.einsum("bhid,bhjd->bhij", query, key) * attention.logit_scale.clamp(max=math.log(100)).exp()
    else:
        logits = torch.einsum("bhid,bhjd->bhij", query, key) / math.sqrt(width / attention.num_heads)
    if hasattr(block, "window_size"):
        side, shift = block.window_size[0], block.shift_size[0]
        logits = logits + _relative_bias_by_hand(attention, side)
        if shift:
            allowed = _may_attend_by_hand(block.input_resolution[0], side, shift)
            allowed = allowed.repeat(batch // len(allowed), 1, 1)[:, None]
            logits = logits.masked_fill(~allowed, -torch.inf)
    exponentials = (logits - logits.amax(dim=-1, keepdim=True)).exp()
    return exponentials / exponentials.sum(dim=-1, keepdim=True)


@every_kind
def test_attentions_under_sdpa_are_the_softmax_of_query_times_key(kind):
    model, images = _model(kind, seed=21), _images(22)
    assert model.config._attn_implementation == "sdpa"
    blocks = [m for m in model.modules() if hasattr(m, "attn")]
    inputs = []
    handles = [b.attn.register_forward_pre_hook(lambda m, args: inputs.append(args[0])) for b in blocks]
    with torch.no_grad():
        output = model(images, output_attentions=True)
        for handle in handles:
            handle.remove()
        plain = model(images)
        assert len(output.attentions) == len(blocks) == (3 if kind == "vit" else 4)
        if kind != "vit":
            assert any(b.shift_size[0] for b in blocks)
        for block, entered, found in zip(blocks, inputs, output.attentions, strict=True):
            assert found.shape[:2] == (len(entered), block.attn.num_heads)
            torch.testing.assert_close(found, _attention_by_hand(block, entered), rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(found.sum(dim=-1), torch.ones(found.shape[:-1]))
    # It must matter that the rows are not all alike.
    assert output.attentions[0].std() > 1e-3
    torch.testing.assert_close(output.pooler_output, plain.pooler_output, rtol=1e-4, atol=1e-5)
    assert plain.attentions is None


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_eager_and_sdpa_are_two_ways_to_the_same_numbers(kind):
    model, images = _model(kind, seed=31), _images(32)
    calls = []
    original = F.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    outputs, counts = {}, {}
    for implementation in ("sdpa", "eager", "sdpa"):
        model.set_attn_implementation(implementation)
        calls.clear()
        with pytest.MonkeyPatch.context() as patch, torch.no_grad():
            patch.setattr(F, "scaled_dot_product_attention", counted)
            outputs[implementation] = model(images).last_hidden_state
        counts[implementation] = len(calls)
    assert counts == {"sdpa": 3 if kind == "vit" else 4, "eager": 0}
    torch.testing.assert_close(outputs["eager"], outputs["sdpa"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_the_attention_implementation_can_be_chosen_at_construction_and_below_a_classifier(kind):
    eager = SynCoModel(SynCoConfig(**KINDS[kind], attn_implementation="eager"))
    assert not any(m.fused_attn for m in eager.modules() if hasattr(m, "fused_attn"))
    classifier = SynCoForImageClassification(SynCoConfig(**KINDS[kind]))
    assert all(m.fused_attn for m in classifier.modules() if hasattr(m, "fused_attn"))
    classifier.set_attn_implementation("eager")
    assert not any(m.fused_attn for m in classifier.modules() if hasattr(m, "fused_attn"))
    with pytest.raises((ValueError, ImportError)):
        classifier.set_attn_implementation("flash_attention_2")
    assert not any(m.fused_attn for m in classifier.modules() if hasattr(m, "fused_attn"))


# ---- other image sizes


def _native(kind: str, model: SynCoModel, height: int, width: int) -> nn.Module:
    """timm's network built for that size, with the same weights (a ViT's position embedding resized by hand)."""
    arguments = {"num_classes": 0, "img_size": (height, width), "patch_size": model.config.patch_size}
    arguments |= {"embed_dim": model.config.embed_dim, "num_heads": model.config.num_heads}
    if kind == "vit":
        network = timm.create_model("vit_tiny_patch16_224", depth=model.config.depth, **arguments)
    else:
        name = "swin_tiny_patch4_window7_224" if kind == "swin" else "swinv2_tiny_window8_256"
        network = timm.create_model(name, depths=model.config.depth, window_size=4, **arguments)
    state = model.backbone.state_dict()
    if kind == "vit":
        prefix, grid = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
        size = (height // 8, width // 8)
        grid = F.interpolate(grid.view(1, 4, 4, -1).permute(0, 3, 1, 2), size, mode="bicubic", antialias=True)
        state["pos_embed"] = torch.cat([prefix, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)
    network.load_state_dict(state)
    return network.eval()


@pytest.mark.parametrize("size", [(64, 64), (32, 48), (80, 24), (32, 32)])
@every_kind
def test_other_sizes_and_rectangles_equal_a_network_built_for_them(kind, size):
    model, images = _model(kind, seed=41), _images(42, 2, 3, *size)
    with torch.no_grad():
        found = model(images, interpolate_pos_encoding=True)
        network = _native(kind, model, *size)
        expected = network.forward_features(images)
        pooled = expected[:, 0] if kind == "vit" else expected.mean(dim=(1, 2))
    sequence = expected if kind == "vit" else expected.flatten(1, 2)
    torch.testing.assert_close(found.last_hidden_state, sequence, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, pooled, rtol=1e-4, atol=1e-5)


def test_a_size_that_no_window_divides_is_padded_as_timm_does():
    model, images = _model("swin", seed=43), _images(44, 1, 3, 36, 44)
    with torch.no_grad():
        found = model(images, interpolate_pos_encoding=True).last_hidden_state
        expected = _native("swin", model, 36, 44).forward_features(images).flatten(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@every_kind
def test_nothing_stays_behind_after_another_size_or_an_exception(kind):
    model, images = _model(kind, seed=45), _images(46)
    with torch.no_grad():
        before = model(images).last_hidden_state
        model(_images(47, 1, 3, 48, 64), interpolate_pos_encoding=True, output_attentions=True)
        broken = [m for m in model.modules() if hasattr(m, "attn")][-1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(broken, "forward", lambda *args: (_ for _ in ()).throw(MemoryError("out of memory")))
            with pytest.raises(MemoryError):
                model(
                    _images(48, 1, 3, 48, 64),
                    interpolate_pos_encoding=True,
                    output_attentions=True,
                    output_hidden_states=True,
                )
        with pytest.raises(ValueError, match="The image is 48x64, but the model was built for 32x32"):
            model(_images(49, 1, 3, 48, 64))
        after = model(images)
    assert torch.equal(before, after.last_hidden_state)
    assert after.attentions is None
    assert after.hidden_states is None


@every_kind
def test_attentions_and_hidden_states_of_another_size(kind):
    model, images = _model(kind, seed=51), _images(52, 2, 3, 64, 32)
    with torch.no_grad():
        output = model(images, interpolate_pos_encoding=True, output_attentions=True, output_hidden_states=True)
    tokens = 1 + 8 * 4 if kind == "vit" else 4 * 4
    assert {a.shape[-2:] for a in output.attentions} == {(tokens, tokens)}
    assert output.hidden_states[0].shape[1] == (1 + 8 * 4 if kind == "vit" else 32 * 16)
    for weights in output.attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))


# ---- training


def _gradients(model: SynCoModel, images: torch.Tensor, **arguments) -> dict[str, torch.Tensor]:
    model.train().zero_grad()
    torch.manual_seed(61)  # stochastic depth
    output = model(images, **arguments)
    (output.pooler_output.square().sum() + output.last_hidden_state.sin().sum()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# Newer versions of transformers say "activation checkpointing", the oldest supported one knows only this name.
renamed = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


@renamed
@pytest.mark.parametrize("size", [32, 48])
@every_kind
def test_gradient_checkpointing_changes_memory_and_not_gradients(kind, size):
    model, images = _model(kind, seed=62, drop_path_rate=0.3), _images(63, 2, 3, size, size)
    plain = _gradients(model, images, interpolate_pos_encoding=True)
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    forwards = []
    first = next(m for m in model.modules() if hasattr(m, "attn"))
    handle = first.register_forward_pre_hook(lambda *args: forwards.append(1))
    checkpointed = _gradients(model, images, interpolate_pos_encoding=True)
    handle.remove()
    assert len(forwards) == 2  # the forward and its replay
    assert plain.keys() == checkpointed.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    again = _gradients(model, images, interpolate_pos_encoding=True)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@renamed
def test_attentions_under_gradient_checkpointing_are_refused_unless_nothing_is_replayed():
    model = _model("vit", seed=64, cls=SynCoForImageClassification)
    model.gradient_checkpointing_enable()
    for mode in (True, False):
        with pytest.raises(
            ValueError, match=r"output_attentions=True does not go with gradient checkpointing.*no_grad"
        ):
            model.train(mode)(_images(65), output_attentions=True)
    with torch.no_grad():
        assert len(model(_images(65), output_attentions=True).attentions) == 3
    loss = model(_images(65), output_hidden_states=True).hidden_states[1].sum()
    loss.backward()
    assert model.synco.backbone.cls_token.grad is not None


@every_kind
def test_gradients_flow_through_attentions_and_hidden_states(kind):
    model = _model(kind, seed=66)
    output = model(_images(67), output_attentions=True, output_hidden_states=True)
    output.attentions[0].square().sum().backward(retain_graph=True)
    weight = next(m for m in model.modules() if hasattr(m, "qkv")).qkv.weight
    width = weight.shape[1]
    assert weight.grad[: 2 * width].abs().sum() > 0
    assert weight.grad[2 * width :].abs().sum() == 0  # values have no part in attention
    output.hidden_states[-1].sum().backward()
    assert weight.grad[2 * width :].abs().sum() > 0


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_compiles_as_one_graph(kind):
    numbers = {"depth": 1} if kind == "vit" else {"depth": [2, 1]}
    model = _model(kind, seed=71, cls=SynCoForImageClassification, num_labels=5, **numbers)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.equal(compiled(_images(72)).logits, model(_images(72)).logits)


@every_kind
def test_bfloat16_takes_float32_images_and_stays_close(kind):
    model, images = _model(kind, seed=73), _images(74)
    with torch.no_grad():
        exact = model(images).pooler_output
        rounded = model.to(torch.bfloat16)(images, output_attentions=True)
    assert rounded.pooler_output.dtype == rounded.attentions[-1].dtype == torch.bfloat16
    assert F.cosine_similarity(exact, rounded.pooler_output.float()).min() > 0.99


# ---- what a user may ask, and must not


def test_tuples_and_standing_wishes():
    model, images = _model("vit", seed=81), _images(82)
    with torch.no_grad():
        output = model(images)
        last, pooled = model(images, return_dict=False)
        assert torch.equal(output.last_hidden_state, last)
        assert torch.equal(output.pooler_output, pooled)
        model.config.output_hidden_states = True
        assert len(model(images).hidden_states) == 4
        assert model(images, output_hidden_states=False).hidden_states is None


def test_the_input_embedding_is_the_patch_embedding():
    model = _model("vit", seed=83, cls=SynCoForImageClassification)
    assert model.get_input_embeddings() is model.synco.backbone.patch_embed


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 1, 32, 32), {}, r"pixel_values has shape \(2, 1, 32, 32\), but \(batch, 3, height, width\)"),
        ((3, 32, 32), {}, r"pixel_values has shape \(3, 32, 32\).*image processor"),
        ((2, 3, 224, 224), {}, "The image is 224x224, but the model was built for 32x32.*interpolate_pos_encoding"),
        ((2, 3, 32, 40), {}, "The image is 32x40, but the model was built for 32x32"),
        ((2, 3, 33, 40), {"interpolate_pos_encoding": True}, "33x40, which is no whole number of [28]x[28] patches"),
    ],
)
@every_kind
def test_images_that_do_not_fit_are_refused(kind, shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        _model(kind, seed=84)(torch.zeros(shape), **arguments)


def test_other_numbers_of_channels():
    model = _model("swin", seed=85, num_channels=4)
    assert model(_images(86, 1, 4, 32, 32)).pooler_output.shape == (1, 96)
    with pytest.raises(ValueError, match=r"\(batch, 4, height, width\)"):
        model(_images(86))
    with pytest.raises(ValueError, match=r"pass images grey \(image.convert\('L'\)\) through the image processor"):
        _model("vit", seed=87, num_channels=1)(_images(86))


# ---- classification


def test_the_classifier_is_drawn_small_and_reads_the_pooled_feature():
    torch.manual_seed(91)
    model = SynCoForImageClassification(SynCoConfig("vit-nano", num_labels=1000)).eval()
    weight = model.classifier.weight.detach()
    assert weight.shape == (1000, 96)
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(weight.mean().item()) < 5 * 0.01 / weight.numel() ** 0.5
    assert not model.classifier.bias.any()
    images = _images(92)
    with torch.no_grad():
        expected = model.synco(images).pooler_output @ weight.T
        torch.testing.assert_close(model(images).logits, expected)


def test_loss_of_one_label_is_the_mean_negative_log_likelihood():
    model = _model("vit", seed=93, cls=SynCoForImageClassification, num_labels=6)
    labels = torch.tensor([4, 1])
    output = model(_images(94), labels=labels)
    by_hand = 0.0
    for row, label in zip(output.logits.tolist(), labels.tolist(), strict=True):
        by_hand -= math.log(math.exp(row[label]) / sum(math.exp(v) for v in row)) / 2
    assert output.loss.item() == pytest.approx(by_hand, rel=1e-5)
    output.loss.backward()
    assert model.synco.backbone.cls_token.grad is not None
    assert model.synco.backbone.pos_embed.grad is None
    assert model(_images(94)).loss is None


def test_loss_of_many_labels_is_the_mean_binary_cross_entropy():
    model = _model(
        "swin", seed=95, cls=SynCoForImageClassification, num_labels=4, problem_type="multi_label_classification"
    )
    labels = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    output = model(_images(96), labels=labels)
    by_hand = 0.0
    for row, targets in zip(output.logits.tolist(), labels.tolist(), strict=True):
        for value, target in zip(row, targets, strict=True):
            probability = 1 / (1 + math.exp(-value))
            by_hand -= math.log(probability if target else 1 - probability) / 8
    assert output.loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_dropout_before_the_classifier_acts_in_training_only():
    model = _model("vit", seed=97, cls=SynCoForImageClassification, classifier_dropout=0.5)
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(98)
    images = _images(99, 64, 3, 32, 32)
    with torch.no_grad():
        model(images)
        model.train()(images)
    assert not (seen[0] == 0).any()
    assert (seen[1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)


def test_a_classifier_passes_on_attentions_and_hidden_states():
    model = _model("swin", seed=101, cls=SynCoForImageClassification)
    with torch.no_grad():
        output = model(
            _images(102, 1, 3, 48, 32),
            output_attentions=True,
            output_hidden_states=True,
            interpolate_pos_encoding=True,
        )
    assert len(output.attentions) == 4
    assert len(output.hidden_states) == 3
    assert len(model(_images(103), return_dict=False)) == 1


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_multi_hot_labels_of_any_type_give_the_loss_of_floats(dtype, problem_type):
    config = SynCoConfig("vit-nano", depth=1, num_labels=4, problem_type=problem_type)
    model = SynCoForImageClassification(config).eval()
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1]])
    with torch.no_grad():
        outputs = model(images, labels=labels.to(dtype))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits, labels.float())
    torch.testing.assert_close(outputs.loss, expected)
