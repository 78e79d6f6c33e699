import pytest
import torch

from synco_hub.models import SynCoConfig
from synco_hub.models.backbones_synco import build_backbone
from synco_hub.models.recording_synco import find_attention_modules, record_attention, use_fused_attention


def _state(backbone) -> list[tuple[object, ...]]:
    return [
        (getattr(m, "fused_attn", None), len(m._forward_hooks), len(m._forward_pre_hooks)) for m in backbone.modules()
    ]


@pytest.mark.parametrize(("name", "blocks", "states"), [("vit-nano", 3, 4), ("swin-nano", 4, 3)])
def test_records_every_forward_in_order_and_leaves_no_trace(name, blocks, states):
    backbone = build_backbone(SynCoConfig(name)).eval()
    use_fused_attention(backbone, True)
    find_attention_modules(backbone)[1].fused_attn = False  # somebody's own choice is kept
    before = _state(backbone)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(41))
    with record_attention(backbone, attentions=True, hidden_states=True) as recorded, torch.no_grad():
        backbone.forward_features(images)
        assert len(recorded.attentions) == blocks
        assert len(recorded.hidden_states) == states
        backbone.forward_features(images)
    assert len(recorded.attentions) == 2 * blocks
    assert all(torch.equal(recorded.attentions[i], recorded.attentions[i + blocks]) for i in range(blocks))
    assert _state(backbone) == before
    with torch.no_grad():
        backbone.forward_features(images)
    assert len(recorded.attentions) == 2 * blocks


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_leaves_no_trace_after_an_exception(name):
    backbone = build_backbone(SynCoConfig(name)).eval()
    use_fused_attention(backbone, True)
    before = _state(backbone)
    too_few_channels = torch.zeros(1, 1, 32, 32)
    with (
        pytest.raises(RuntimeError, match="channels"),
        record_attention(backbone, attentions=True, hidden_states=True),
    ):
        backbone.forward_features(too_few_channels)
    assert _state(backbone) == before


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_records_only_what_is_wanted(name):
    backbone = build_backbone(SynCoConfig(name)).eval()
    use_fused_attention(backbone, True)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(42))
    with torch.no_grad():
        with record_attention(backbone, attentions=False, hidden_states=True) as recorded:
            assert all(module.fused_attn for module in find_attention_modules(backbone))
            backbone.forward_features(images)
        assert not recorded.attentions
        assert recorded.hidden_states
        before = _state(backbone)
        with record_attention(backbone, attentions=False, hidden_states=False) as recorded:
            assert _state(backbone) == before
            backbone.forward_features(images)
        assert not recorded.attentions
        assert not recorded.hidden_states


def test_fused_and_unfused_is_a_switch_where_there_is_one():
    for name in ("vit-nano", "swin-nano"):
        backbone = build_backbone(SynCoConfig(name))
        for fused in (True, False, True):
            use_fused_attention(backbone, fused)
            assert {module.fused_attn for module in find_attention_modules(backbone)} == {fused}
    with torch.device("meta"):
        second_version = build_backbone(SynCoConfig("swin-v2-t"))
    use_fused_attention(second_version, True)
    assert len(find_attention_modules(second_version)) == 12
    assert not any(hasattr(module, "fused_attn") for module in find_attention_modules(second_version))


def test_blocks_that_hide_their_attention_are_named_instead_of_returning_nothing():
    with torch.device("meta"):
        parallel = build_backbone(SynCoConfig("vit_base_patch16_xp_224", depth=1))
    with (
        pytest.raises(ValueError, match="VisionTransformer do not show their attention: leave output_attentions out"),
        record_attention(parallel, attentions=True, hidden_states=False),
    ):
        pass
