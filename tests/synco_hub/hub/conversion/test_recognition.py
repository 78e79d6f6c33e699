import pytest
from foreign_checkpoints import dino, moby_like, moco_v3, names_of, swin, vit, yacs

from synco_hub.hub.conversion.layouts import CHOICES
from synco_hub.hub.conversion.recognition import recognise
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
