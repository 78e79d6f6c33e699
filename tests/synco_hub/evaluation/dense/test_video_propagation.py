import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.data.davis import DavisVideo
from synco_hub.evaluation.dense.label_propagation import PropagationSettings
from synco_hub.evaluation.dense.video_propagation import VideoSettings, frame_size, propagated_masks
from synco_hub.models import SynCoConfig, SynCoModel


def test_what_does_not_move_keeps_its_mask(tmp_path):
    torch.manual_seed(0)
    network = SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).eval()
    first = torch.zeros(64, 64, dtype=torch.uint8)
    first[:, 24:48] = 1
    colours = np.array([[20, 40, 200], [220, 180, 10]], dtype=np.uint8)[first.numpy()]
    frames = tuple(tmp_path / f"{number}.png" for number in range(4))
    for file in frames:
        Image.fromarray(colours).save(file)
    settings = VideoSettings(short_side=64, propagation=PropagationSettings(topk=1, radius=0), progress=False)
    found = list(propagated_masks(network, DavisVideo("still", frames, frames), first, settings, None))
    assert len(found) == 3
    assert all(torch.equal(mask, first) and seconds >= 0 for mask, seconds in found)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="short_side=0"):
        VideoSettings(short_side=0)


@pytest.mark.parametrize(
    ("video", "short_side", "stride", "seen"),
    [
        # 480p as the published scripts see it, both ways round, and with patches of 8 and 14.
        ((854, 480), 480, (16, 16), (480, 832)),
        ((480, 854), 480, (16, 16), (832, 480)),
        ((854, 480), 480, (8, 8), (480, 832)),
        ((854, 480), 480, (14, 14), (476, 826)),
        ((40, 40), 40, (8, 8), (40, 40)),
        ((60, 3), 4, (8, 8), (8, 64)),
    ],
)
def test_frame_sizes(video, short_side, stride, seen):
    assert frame_size(*video, short_side, stride) == seen
