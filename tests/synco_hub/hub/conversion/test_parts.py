import torch
from foreign_checkpoints import dino, moby_like, vit

from synco_hub.hub.conversion.parts import split_parts
from synco_hub.hub.conversion.recognition import recognise
from synco_hub.hub.conversion.source import CheckpointSource

FIXED, LEARNED = vit(depth=1), vit(depth=1, sincos=False)


def source_of(content, **kwargs):
    return CheckpointSource("file.pth", "torch", "0" * 64, content, **kwargs)


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
