import pytest
import torch
from foreign_checkpoints import dino, moby_like, moco_v3, names_of, swin, vit, yacs

from synco_hub.hub.conversion.layouts import CHOICES
from synco_hub.hub.conversion.recognition import recognise, split_parts
from synco_hub.hub.conversion.source import CheckpointSource

FIXED, LEARNED = vit(depth=1), vit(depth=1, sincos=False)
BARE = dict(names_of(LEARNED))


def source_of(content, **kwargs):
    return CheckpointSource("file.pth", "torch", "0" * 64, content, **kwargs)


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


def test_the_student_is_the_online_network_and_the_teacher_the_target():
    content = dino(LEARNED, FIXED)
    parts = split_parts(source_of(content), recognise(source_of(content)))
    assert set(parts.tensors) == {"online", "projector", "target", "target_projector"}
    assert torch.equal(parts.tensors["online"]["pos_embed"], LEARNED.pos_embed)
    assert torch.equal(parts.tensors["target"]["pos_embed"], FIXED.pos_embed)
    assert set(parts.dropped) == {"optimizer", "epoch", "args", "dino_loss"}


def test_keys_without_any_beginning_are_one_backbone():
    bare = {f"module.{key}": value for key, value in FIXED.state_dict().items()}
    parts = split_parts(source_of({"model": bare, "epoch": 3}), recognise(source_of({"model": bare}), "timm"))
    assert set(parts.tensors["online"]) == set(FIXED.state_dict())
    assert (parts.leftover, parts.dropped) == ([], {"epoch": "no weights of the networks"})
