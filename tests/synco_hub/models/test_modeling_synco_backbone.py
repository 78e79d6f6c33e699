"""`SynCoBackbone`: feature maps are hidden states, at any size, from any checkpoint, under other people's heads."""

import itertools
import json
import math

import pytest
import torch
from huggingface_hub import constants
from small_networks import SWIN_V2, run_without_the_package, stir
from torch.nn import functional as F
from transformers import AutoBackbone, UperNetConfig, UperNetForSemanticSegmentation

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.models import SynCoBackbone, SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from trainers.pretraining_model import SynCoForPreTraining

LEARNED = {"backbone": "vit-nano", "position_embedding": "learned"}
KINDS = {"vit": {"backbone": "vit-nano"}, "learned": LEARNED, "swin": {"backbone": "swin-nano"}, "swin-v2": SWIN_V2}
every_kind = pytest.mark.parametrize("kind", KINDS)


def _backbone(kind: str, seed: int = 0, **numbers) -> SynCoBackbone:
    torch.manual_seed(seed)
    return stir(SynCoBackbone(SynCoConfig(**{**KINDS[kind], **numbers})).eval())


def _images(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


def _all(kind: str) -> list[int]:
    return list(range(len(SynCoConfig(**KINDS[kind]).stage_names)))


# ---- maps


@every_kind
@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_maps_are_the_hidden_states_bit_for_bit(kind, size):
    model, images = _backbone(kind, out_indices=_all(kind)), _images(1, 2, 3, *size)
    with torch.no_grad():
        maps = model(images).feature_maps
        states = model.synco(images, output_hidden_states=True, interpolate_pos_encoding=True).hidden_states
    assert len(maps) == len(states) == len(model.channels)
    patch = model.config.patch_size
    for index, (found, state) in enumerate(zip(maps, states, strict=True)):
        stride = patch * 2 ** max(index - 1, 0) if "swin" in kind else patch
        rows, columns = math.ceil(size[0] / stride), math.ceil(size[1] / stride)
        assert found.shape == (2, model.channels[index], rows, columns)
        for row in range(rows):
            for column in range(columns):
                place = state.shape[1] - rows * columns + row * columns + column
                assert torch.equal(found[:, :, row, column], state[:, place])


@every_kind
def test_stages_are_chosen_by_name_and_by_index_and_given_in_their_order(kind):
    every = _backbone(kind, out_indices=_all(kind))
    some = _backbone(kind, out_features=["stem", "stage2"])
    assert list(some.out_indices) == [0, 2]
    last = _backbone(kind)
    assert list(last.out_features) == [every.config.stage_names[-1]]
    images = _images(2)
    with torch.no_grad():
        maps = every(images).feature_maps
        for index, found in zip((0, 2), some(images).feature_maps, strict=True):
            assert torch.equal(found, maps[index])
        assert torch.equal(last(images).feature_maps[0], maps[-1])


@every_kind
def test_images_are_padded_on_the_right_and_below(kind):
    model, images = _backbone(kind, out_indices=_all(kind)), _images(3, 2, 3, 37, 51)
    patch = model.config.patch_size
    padded = torch.zeros(2, 3, math.ceil(37 / patch) * patch, math.ceil(51 / patch) * patch)
    padded[:, :, :37, :51] = images
    with torch.no_grad():
        for ours, wanted in zip(model(images).feature_maps, model(padded).feature_maps, strict=True):
            assert torch.equal(ours, wanted)


@every_kind
def test_the_final_norm_is_put_on_maps_where_that_is_asked(kind):
    plain, normed = _backbone(kind), _backbone(kind, apply_layernorm=True)
    with torch.no_grad():
        raw, found = plain(_images(4)).feature_maps[0], normed(_images(4)).feature_maps[0]
        norm = plain.synco.backbone.norm
        wanted = F.layer_norm(raw.permute(0, 2, 3, 1), raw.shape[1:2], norm.weight, norm.bias, norm.eps)
        final = normed.synco(_images(4)).last_hidden_state
    torch.testing.assert_close(found, wanted.permute(0, 3, 1, 2))
    patches = found.flatten(2).transpose(1, 2)
    assert torch.equal(patches, final[:, final.shape[1] - patches.shape[1] :])


def test_attentions_hidden_states_and_tuples_are_given_where_asked():
    model = _backbone("vit")
    with torch.no_grad():
        plain, full = model(_images(5)), model(_images(5), output_attentions=True, output_hidden_states=True)
        maps, states = model(_images(5), output_hidden_states=True, return_dict=False)
    assert plain.hidden_states is None
    assert plain.attentions is None
    assert len(full.attentions) == len(full.hidden_states) - 1
    assert torch.equal(maps[0], plain.feature_maps[0])
    torch.testing.assert_close(states[1], full.hidden_states[1])


# ---- the pyramid of a plain ViT


def test_a_pyramid_has_the_strides_of_one_and_keeps_every_place():
    model, images = _backbone("vit", pyramid=True, out_indices=[0, 1, 2, 3]), _images(6, 1, 3, 64, 96)
    plain = _backbone("vit", out_indices=[0, 1, 2, 3])
    with torch.no_grad():
        maps, wanted = model(images).feature_maps, plain(images).feature_maps  # patches of 8 pixels
    torch.testing.assert_close(
        maps[0][..., :-2, :-2], F.interpolate(wanted[0], scale_factor=2, mode="bilinear")[..., :-2, :-2]
    )
    assert torch.equal(maps[1], wanted[1])
    torch.testing.assert_close(maps[2], F.avg_pool2d(wanted[2], 2))
    torch.testing.assert_close(maps[3], F.avg_pool2d(wanted[3], 4))
    assert [tuple(each.shape[-2:]) for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(("size", "patch"), [((37, 51), 8), ((33, 70), 4), ((45, 29), 14)])
def test_a_pyramid_of_any_size_rounds_up_and_means_the_same_places(size, patch):
    model = _backbone("vit", pyramid=True, patch_size=patch, image_size=4 * patch, out_indices=[1, 2])
    with torch.no_grad():
        found, _ = model(_images(7, 1, 3, *size)).feature_maps
    assert found.shape[-2:] == (math.ceil(size[0] / 4), math.ceil(size[1] / 4))
    if patch == 4:
        assert torch.equal(
            found, _backbone("vit", patch_size=4, image_size=16, out_indices=[1])(_images(7, 1, 3, *size))[0][0]
        )


@pytest.mark.parametrize("layernorm", [False, True])
def test_a_single_map_is_given_at_all_strides_and_comes_back_so(layernorm, tmp_path):
    choice = {"pyramid": True, "out_indices": [-1], "apply_layernorm": layernorm}
    model, images = _backbone("vit", **choice), _images(13, 2, 3, 64, 96)
    with torch.no_grad():
        maps = model(images).feature_maps
        found = model.synco(images, output_hidden_states=True, interpolate_pos_encoding=True)
        wanted = found.last_hidden_state if layernorm else found.hidden_states[-1]
    grid = wanted[:, 1:].transpose(1, 2).unflatten(2, (8, 12))
    assert [tuple(each.shape[-2:]) for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert model.channels == [each.shape[1] for each in maps]
    assert torch.equal(maps[1], grid)
    for index, (row, column) in itertools.product(range(2), itertools.product(range(2), range(3))):
        mean = grid[index, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].mean((1, 2))
        torch.testing.assert_close(maps[3][index, :, row, column], mean)
    model.save_pretrained(tmp_path)
    again = AutoBackbone.from_pretrained(tmp_path)
    with torch.no_grad():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(again(images)[0], maps, strict=True))
    assert again.channels == model.channels


def test_four_evenly_spaced_blocks_make_a_pyramid_unless_others_are_chosen():
    assert list(_backbone("vit", pyramid=True, depth=8).out_indices) == [2, 4, 6, 8]
    assert list(SynCoBackbone(SynCoConfig("deit-s", pyramid=True)).out_indices) == [3, 6, 9, 12]


# ---- how it runs


@every_kind
def test_eager_sdpa_bfloat16_and_compiled_give_the_same_maps(kind):
    images = _images(8, 1, 3, 40, 44)
    model = _backbone(kind, out_indices=_all(kind))
    with torch.no_grad():
        wanted = model(images).feature_maps
        model.set_attn_implementation("eager")
        for ours, theirs in zip(model(images).feature_maps, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        model.set_attn_implementation("sdpa")
        torch.compiler.reset()  # else sizes of other tests make this one search for a graph of all sizes, for minutes
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")(images).feature_maps
        for ours, theirs in zip(compiled, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        for ours, theirs in zip(model.to(torch.bfloat16)(images).feature_maps, wanted, strict=True):
            assert ours.dtype == torch.bfloat16
            assert F.cosine_similarity(ours.float().flatten(1), theirs.flatten(1)).min() > 0.99


def test_the_pyramid_compiles_and_takes_bfloat16():
    model, images = _backbone("vit", pyramid=True, out_indices=[0, 1, 2, 3]), _images(9, 1, 3, 40, 44)
    with torch.no_grad():
        wanted = model(images).feature_maps
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(images).feature_maps
        for ours, theirs, rounded in zip(found, wanted, model.bfloat16()(images).feature_maps, strict=True):
            torch.testing.assert_close(ours, theirs)
            assert F.cosine_similarity(rounded.float().flatten(1), theirs.flatten(1)).min() > 0.99


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_gradients_reach_every_weight_but_the_fixed_embedding(kind):
    model = _backbone(kind, apply_layernorm=True).train()
    model(_images(10)).feature_maps[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.endswith("pos_embed"), name


# ---- loading and saving


@every_kind
def test_a_saved_backbone_comes_back_with_its_choice(kind, tmp_path):
    model = _backbone(kind, out_indices=[0, 1], apply_layernorm=True)
    model.save_pretrained(tmp_path)
    loaded = AutoBackbone.from_pretrained(tmp_path)
    assert type(loaded) is SynCoBackbone
    assert list(loaded.out_indices) == [0, 1]
    assert loaded.config.apply_layernorm
    with torch.no_grad():
        for ours, wanted in zip(loaded(_images(11)).feature_maps, model(_images(11)).feature_maps, strict=True):
            assert torch.equal(ours, wanted)


@pytest.mark.parametrize("kind", ["vit", "swin"])
def test_every_kind_of_checkpoint_gives_its_backbone(kind, tmp_path):
    config = SynCoConfig(**KINDS[kind])
    torch.manual_seed(12)
    models = {"plain": SynCoModel(config), "classifier": SynCoForImageClassification(config)}
    pretraining = SynCoForPreTraining(
        SynCoConfig(**KINDS[kind], pretraining={"queue_size": 64, "num_hard_negatives": 16})
    )
    for name, model in {**models, "pretraining": pretraining}.items():
        model.save_pretrained(tmp_path / name)
        loaded = AutoBackbone.from_pretrained(tmp_path / name, out_indices=[1, 2])
        backbone = getattr(model, "synco", model).backbone
        for key, value in backbone.state_dict().items():
            assert torch.equal(loaded.synco.backbone.state_dict()[key], value), (name, key)
        assert list(loaded.out_indices) == [1, 2]
        if kind == "vit":
            assert not loaded.synco.backbone.pos_embed.requires_grad


def test_the_config_of_a_plain_model_says_nothing_of_maps(tmp_path):
    for cls in (SynCoModel, SynCoForImageClassification):
        cls(SynCoConfig("vit-nano")).save_pretrained(tmp_path)
        written = json.loads((tmp_path / "config.json").read_text())
        assert not {"out_features", "out_indices", "apply_layernorm", "pyramid", "stage_names"} & written.keys()
    again = SynCoConfig.from_pretrained(tmp_path)
    assert again.to_dict() == SynCoConfig.from_pretrained(tmp_path).to_dict()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"out_indices": [9]}, "out_indices|stage"),
        ({"out_features": ["stage9"]}, "stage9"),
        ({"backbone": "swin-nano", "pyramid": True}, "a Swin's stages have their own strides; leave it out"),
    ],
)
def test_maps_that_there_are_not_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        SynCoBackbone(SynCoConfig(**{"backbone": "vit-nano", **numbers}))


def test_the_fixed_embedding_stays_fixed_under_anothers_head_and_after_its_reload(tmp_path):
    backbone = _backbone("vit", pyramid=True, out_indices=[0, 1, 2, 3])
    config = UperNetConfig(
        backbone_config=backbone.config, hidden_size=8, num_labels=3, use_auxiliary_head=False, pool_scales=[1, 2]
    )
    head = UperNetForSemanticSegmentation(config)
    # Built from a config its weights are random: they are given outright.
    assert not torch.equal(head.backbone.synco.backbone.cls_token, backbone.synco.backbone.cls_token)
    head.backbone = backbone
    head.save_pretrained(tmp_path)
    token = backbone.synco.backbone.cls_token.detach().clone()
    for model in (head, UperNetForSemanticSegmentation.from_pretrained(tmp_path)):
        model.train()
        before = {name: value.clone() for name, value in model.named_parameters()}
        assert torch.equal(model.backbone.synco.backbone.cls_token, token)
        labels = torch.randint(0, 3, (2, 40, 48), generator=torch.Generator().manual_seed(13))
        model(_images(13, 2, 3, 40, 48), labels=labels).loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        fixed = "backbone.synco.backbone.pos_embed"
        assert torch.equal(before[fixed], dict(model.named_parameters())[fixed])
        assert not torch.equal(
            before["backbone.synco.backbone.patch_embed.proj.weight"],
            model.backbone.synco.backbone.patch_embed.proj.weight,
        )


WITHOUT_THE_PACKAGE = """
    from transformers import AutoBackbone

    model = AutoBackbone.from_pretrained(
        "somebody/model", trust_remote_code=True, out_indices=[1, 2]
    )
    assert type(model).__module__.startswith("transformers_modules")
    with torch.no_grad():
        torch.save(model.eval()(torch.load(sys.argv[1])).feature_maps, sys.argv[2])
"""


def test_a_hub_id_gives_it_without_the_package(hub_api, hub, tmp_path):
    model = _backbone("vit", seed=14)
    model.synco.save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    hub_api.create_repo("somebody/model")
    hub_api.upload_folder(repo_id="somebody/model", folder_path=tmp_path / "model")
    torch.save(_images(15), tmp_path / "images.pt")
    assert constants.HF_HUB_DISABLE_XET
    files = tmp_path / "images.pt", tmp_path / "maps.pt"
    run_without_the_package(WITHOUT_THE_PACKAGE, tmp_path, *files, HF_ENDPOINT=hub.url, HF_HUB_DISABLE_XET="1")
    model = _backbone("vit", seed=14, out_indices=[1, 2])
    with torch.no_grad():
        for ours, wanted in zip(torch.load(tmp_path / "maps.pt"), model(_images(15)).feature_maps, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
