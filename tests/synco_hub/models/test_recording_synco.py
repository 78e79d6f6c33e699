import copy
import math
import pickle
import threading

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from synco_hub.models import SynCoConfig, SynCoModel, recording_synco
from synco_hub.models.backbones_synco import build_backbone
from synco_hub.models.recording_synco import (
    FusedUnlessRecorded,
    RecordedDropout,
    find_attention_modules,
    forward_features,
    use_fused_attention,
)

WISHES = [
    {"output_attentions": attentions, "output_hidden_states": hidden_states}
    for attentions in (False, True)
    for hidden_states in (False, True)
]


def _state(backbone) -> list[tuple[object, ...]]:
    return [
        (getattr(m, "fused_attn", None), len(m._forward_hooks), len(m._forward_pre_hooks), *map(id, m.children()))
        for m in backbone.modules()
    ]


def _backbone(name, fused=True):
    backbone = build_backbone(SynCoConfig(name)).eval()
    use_fused_attention(backbone, fused)
    return backbone


def _images(seed, number=2):
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def _outputs(model, seed, wishes) -> list[torch.Tensor]:
    with torch.no_grad():
        output = model(_images(seed), **wishes)
    for name, wanted in (("attentions", "output_attentions"), ("hidden_states", "output_hidden_states")):
        assert (output[name] is not None if name in output else False) == wishes[wanted]
    return [
        output.last_hidden_state,
        output.pooler_output,
        *(output.attentions or ()),
        *(output.hidden_states or ()),
    ]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_threads_that_share_a_model_get_what_each_would_get_alone(name, implementation):
    model = SynCoModel._from_config(SynCoConfig(name), attn_implementation=implementation).eval()
    alone = [_outputs(model, kind, wishes) for kind, wishes in enumerate(WISHES)]
    wrong: list[str] = []
    together = threading.Barrier(4)

    def call(number: int) -> None:
        try:
            together.wait()
            for step in range(24):
                kind = (number + step) % len(WISHES)
                outputs = _outputs(model, kind, WISHES[kind])
                if len(outputs) != len(alone[kind]):
                    wrong.append(f"{WISHES[kind]}: {len(outputs)} tensors instead of {len(alone[kind])}")
                elif not all(map(torch.equal, outputs, alone[kind])):
                    wrong.append(f"{WISHES[kind]}: other values")
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, (len(wrong), wrong[:5])


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_a_plain_forward_in_the_midst_of_anothers_recording_is_neither_heard_nor_changed(name):
    model = SynCoModel._from_config(SynCoConfig(name), attn_implementation="sdpa").eval()
    plain = {"output_attentions": False, "output_hidden_states": False}
    alone, recorded = _outputs(model, 1, plain), _outputs(model, 2, WISHES[3])
    within: list[list[torch.Tensor]] = []
    busy = []

    def call_in_between(module, inputs):
        if not busy:
            busy.append(1)
            within.append(_outputs(model, 1, plain))  # the same thread
            thread = threading.Thread(target=lambda: within.append(_outputs(model, 1, plain)))
            thread.start()
            thread.join()

    find_attention_modules(model)[1].register_forward_pre_hook(call_in_between)
    again = _outputs(model, 2, WISHES[3])
    assert len(again) == len(recorded)
    assert all(map(torch.equal, again, recorded))
    assert len(within) == 2
    assert all(torch.equal(one, other) for outputs in within for one, other in zip(outputs, alone, strict=True))


@pytest.mark.parametrize(("name", "blocks", "states"), [("vit-nano", 3, 4), ("swin-nano", 4, 3)])
def test_records_every_forward_in_order_and_leaves_no_trace(name, blocks, states):
    backbone = _backbone(name)
    find_attention_modules(backbone)[1].fused_attn = False  # somebody's own choice is kept
    before = _state(backbone)
    attentions, hidden_states, images = [], [], _images(41)
    with torch.no_grad():
        plain = backbone.forward_features(images)
        features = forward_features(backbone, images, attentions, hidden_states)
        assert (len(attentions), len(hidden_states)) == (blocks, states)
        assert torch.allclose(features, plain, atol=1e-5)
        again = []
        forward_features(backbone, images, again, None)
        assert len(again) == blocks
        assert all(map(torch.equal, attentions, again))
        assert torch.equal(forward_features(backbone, images, None, []), plain)
        assert torch.equal(backbone.forward_features(images), plain)
    assert _state(backbone) == before
    assert len(attentions) == blocks


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_leaves_no_trace_after_an_exception(name):
    backbone = _backbone(name)
    before, attentions = _state(backbone), []
    with pytest.raises(RuntimeError, match="channels"):
        forward_features(backbone, torch.zeros(1, 1, 32, 32), attentions, [])
    assert _state(backbone) == before
    with torch.no_grad():
        backbone.forward_features(_images(43))
    assert not attentions


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_fused_attention_runs_unfused_only_where_attentions_are_wanted(name, monkeypatch):
    backbone, calls, fused = _backbone(name), [], torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k)
    )
    with torch.no_grad():
        for attentions, hidden_states, expected in (
            (None, None, len(find_attention_modules(backbone))),
            (None, [], len(find_attention_modules(backbone))),
            ([], None, 0),
            ([], [], 0),
        ):
            calls.clear()
            forward_features(backbone, _images(42), attentions, hidden_states)
            assert len(calls) == expected


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


def test_a_switch_set_by_hand_is_recorded_too():
    backbone = _backbone("vit-nano")
    for module in find_attention_modules(backbone):
        module.fused_attn = True
    attentions = []
    with torch.no_grad():
        forward_features(backbone, _images(44), attentions, None)
    assert len(attentions) == 3


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_copies_pickles_and_scripts_are_the_same_network(name):
    backbone, images = _backbone(name), _images(45)
    with torch.no_grad():
        expected = backbone.forward_features(images)
        for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
            modules = find_attention_modules(other)
            assert {type(module.fused_attn) for module in modules} == {FusedUnlessRecorded}
            assert {type(module.attn_drop) for module in modules} == {RecordedDropout}
            assert torch.equal(other.forward_features(images), expected)
        for fused in (True, False):
            use_fused_attention(backbone, fused)
            assert torch.allclose(torch.jit.script(backbone).forward_features(images), expected, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_a_compiled_model_records_too(name, implementation):
    model = SynCoModel._from_config(SynCoConfig(name), attn_implementation=implementation).eval()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    for kind in (3, 0, 1, 2, 0):
        outputs, expected = _outputs(compiled, 46, WISHES[kind]), _outputs(model, 46, WISHES[kind])
        assert len(outputs) == len(expected)
        assert all(map(torch.equal, outputs, expected))


def test_blocks_compiled_one_by_one_are_named_instead_of_losing_their_attention():
    model = SynCoModel._from_config(SynCoConfig("vit-nano"), attn_implementation="sdpa").eval()
    torch.compiler.reset()
    model.backbone.blocks[1].compile(backend="eager")
    with pytest.raises(ValueError, match="2 of 3 blocks showed their attention"):
        _outputs(model, 47, WISHES[2])


def test_blocks_that_hide_their_attention_are_named_instead_of_returning_nothing():
    with torch.device("meta"):
        parallel = build_backbone(SynCoConfig("vit_base_patch16_xp_224", depth=1))
    with pytest.raises(ValueError, match="VisionTransformer do not show their attention: leave output_attentions out"):
        forward_features(parallel, torch.zeros(1, 3, 224, 224, device="meta"), [], None)


class _AttentionBatches(TorchFunctionMode):
    """How many windows or images each attention call sees."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            self.sizes.append(len(args[0]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "number"), [("swin-t", 512), ("swin-t", 1024), ("swin-t", 1025), ("vit-nano", 1025)])
def test_no_attention_call_sees_more_windows_than_a_cuda_grid_counts(name, number):
    with torch.device("meta"):
        model = SynCoModel(SynCoConfig(name)).train()
        images = torch.empty(2 * number, 3, model.config.image_size, model.config.image_size)
        with _AttentionBatches() as calls:
            features = model(images).pooler_output
    assert features.shape == (2 * number, model.config.hidden_size)
    assert max(calls.sizes) == (65_472 if name == "swin-t" else 2 * number)  # 1,023 images of 64 windows
    blocks = len(find_attention_modules(model.backbone))
    assert len(calls.sizes) == blocks * (math.ceil(2 * number / 1023) if name == "swin-t" else 1)


@pytest.mark.parametrize("size", [32, (24, 48)])
@pytest.mark.parametrize("wishes", WISHES)
def test_a_swin_in_parts_is_the_same_network(wishes, size, monkeypatch):
    model = SynCoModel(SynCoConfig("swin-nano")).eval().double()
    images = torch.randn(7, 3, *(size if isinstance(size, tuple) else (size, size)), dtype=torch.float64)
    passes = []
    for most in (65_535, 40):  # 16 and 18 windows an image: all at once, or two images at a time
        monkeypatch.setattr(recording_synco, "MOST_WINDOWS", most)
        with _AttentionBatches() as calls:
            output = model(images, interpolate_pos_encoding=True, **wishes)
        model.zero_grad()
        output.pooler_output.square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        passes.append((output, gradients, calls.sizes))
    (whole, expected, _), (parts, gradients, sizes) = passes
    assert wishes["output_attentions"] or max(sizes) <= 40
    torch.testing.assert_close(parts.last_hidden_state, whole.last_hidden_state)
    for name in ("attentions", "hidden_states"):
        assert (getattr(parts, name) is None) == (getattr(whole, name) is None)
        for ours, theirs in zip(getattr(parts, name) or (), getattr(whole, name) or (), strict=True):
            torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients, expected)
    with torch.no_grad(), _AttentionBatches() as calls:
        model(images, interpolate_pos_encoding=True)
    assert max(calls.sizes) > 40


@pytest.mark.parametrize("name", ["vit-nano", "swin-nano"])
def test_an_exported_network_takes_batches_of_any_size(name):
    model = SynCoModel(SynCoConfig(name)).eval()
    assert torch.is_grad_enabled()  # where a Swin would be cut into parts of so many images
    free = {"pixel_values": {0: torch.export.Dim("batch")}}
    example = {"pixel_values": torch.randn(2, 3, 32, 32)}
    exported = torch.export.export(model, (), example, dynamic_shapes=free).module()
    for batch in (1, 3, 5):
        images = torch.randn(batch, 3, 32, 32)
        with torch.no_grad():
            expected = model(images).pooler_output
            torch.testing.assert_close(exported(pixel_values=images).pooler_output, expected)
