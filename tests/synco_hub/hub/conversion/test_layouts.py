import pytest
import torch
from foreign_checkpoints import dino, moby_like, moco_v3, names_of, slow_sincos, swin, vit, yacs

from synco_hub.hub.card.facts import read_facts, write_facts
from synco_hub.hub.conversion.layouts import (
    CHOICES,
    LAYOUTS,
    has_sincos_position_embedding,
    licence_facts,
    recognise,
    split_parts,
)
from synco_hub.hub.conversion.source import CheckpointSource


def source_of(content, **kwargs):
    return CheckpointSource("file.pth", "torch", "0" * 64, content, **kwargs)


FIXED, LEARNED = vit(depth=1), vit(depth=1, sincos=False)
BARE = dict(names_of(LEARNED))


@pytest.mark.parametrize(
    ("content", "layout"),
    [
        (moby_like(FIXED, FIXED), "synco-v2"),
        (moby_like(LEARNED, LEARNED), "moby"),
        (moby_like(LEARNED, LEARNED, yacs({"MODEL": {"ENCODER": "vit_small"}})), "synco-v2"),
        (moby_like(FIXED, FIXED, yacs({"MODEL": {"TYPE": "moby"}})), "moby"),
        # Microsoft's code has neither method, whatever else its configuration leaves out.
        (moby_like(FIXED, FIXED, yacs({"MODEL": {"TYPE": "synco"}})), "synco-v2"),
        (moby_like(LEARNED, LEARNED, yacs({"MODEL": {"TYPE": "byol"}})), "synco-v2"),
        (moco_v3(FIXED, FIXED), "moco-v3"),
        (dino(LEARNED, LEARNED), "dino"),
        ({f"module.backbone.{key}": value for key, value in BARE.items()}, "dino"),
        (BARE, "timm"),
        ({"model": BARE}, "timm"),
        (names_of(swin()), "timm"),
    ],
)
def test_layouts_are_told_by_their_keys(content, layout):
    recognised = recognise(source_of(content))
    assert recognised.name == layout
    assert recognised.reason
    for other in CHOICES[1:]:
        assert recognise(source_of(content), other).name == other


def test_where_no_key_tells_the_user_is_asked():
    with pytest.raises(ValueError, match=r"12 heads at width 384.*give --layout"):
        recognise(source_of(dict(names_of(FIXED))))
    with pytest.raises(ValueError, match="give --layout synco-v2 or --layout moby"):
        recognise(source_of(moby_like(swin(), swin())))


def test_the_fixed_position_embedding_is_recognised_by_its_numbers():
    table = slow_sincos((14, 14), 384)
    assert has_sincos_position_embedding(table)
    assert has_sincos_position_embedding(table.half())
    moved = table.clone()
    moved[0, 100, 7] += 0.01
    token = table.clone()
    token[0, 0, 0] = 1e-3
    for other in (moved, token, table[:, :-1], torch.randn(1, 197, 384), torch.zeros(1, 197, 6)):
        assert not has_sincos_position_embedding(other)


def test_every_key_goes_to_one_part():
    content = moby_like(FIXED, LEARNED)
    content["model"]["odd.weight"] = torch.zeros(1)
    parts = split_parts(source_of(content), recognise(source_of(content), "moby"))
    assert set(parts.tensors) == {"online", "target", "projector", "target_projector", "predictor", "queue"}
    assert sum(map(len, parts.tensors.values())) + 1 == len(content["model"])
    assert parts.leftover == ["odd.weight"]
    assert torch.equal(parts.tensors["target"]["pos_embed"], LEARNED.pos_embed)
    assert torch.equal(parts.tensors["online"]["pos_embed"], FIXED.pos_embed)
    assert set(parts.dropped) == {"optimizer", "lr_scheduler", "max_accuracy", "epoch"}
    assert set(parts.tensors["queue"]) == {"queue1", "queue2", "queue_ptr"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_the_card_says_about_the_licence_is_a_whole_facts_file(layout, tmp_path):
    facts = licence_facts(LAYOUTS[layout])
    write_facts(tmp_path / "card_facts.yaml", facts)
    assert read_facts(tmp_path / "card_facts.yaml") == facts
    assert (facts.licence == "other") == (facts.licence_name is not None)
