"""Flags of the views, down to the pixels that a network sees."""

import dataclasses
import inspect
import json

import numpy as np
import pytest
import torch

from synco_hub.data import TwoViewDataset, TwoViewParameters, load_dataset
from synco_hub.data.views.dataset import TwoViewCollator
from synco_hub.data.views.device_views import finish_views
from synco_hub.data.views.transform import make_two_view_transform
from trainers.pretrain import main
from trainers.pretraining_views import choose_view_parameters
from trainers.recipe import parse
from trainers.view_settings import ViewArguments

WHOLE = (
    "--crop-scale 1 1 --flip-probability 0 --color-jitter-probability 0 --color-dropping-probability 0 "
    "--gaussian-blur-probability 0 0 --solarization-probability 0 0"
).split()
TINY = (
    "--backbone vit-nano --depth 1 --method byol --projection-hidden-dim 16 --projection-dim 8 --use-cpu "
    "--dataset fractals:num_classes=2,train_images_per_class=4,test_images_per_class=1 --disable-tqdm true "
    "--per-device-train-batch-size 4 --dataloader-num-workers 0 --max-steps 1 --save-strategy steps --save-steps 1"
).split()


def test_every_flag_is_a_number_of_the_table_and_none_changes_nothing():
    named = {field.name for field in dataclasses.fields(ViewArguments)}
    assert named < set(inspect.signature(TwoViewParameters).parameters)
    assert choose_view_parameters(None, ViewArguments()) == TwoViewParameters()


@pytest.mark.parametrize("place", ["worker", "device"])
def test_views_without_any_change_are_the_whole_image(tmp_path, place):
    """Limit case: nothing is cut off or distorted, so both views are the image itself, normalised."""
    run = parse(["--output-dir", str(tmp_path), *WHOLE])
    parameters = choose_view_parameters(None, run.views)
    images = load_dataset("fractals:num_classes=2,train_images_per_class=2,test_images_per_class=1,image_size=32")
    transform = make_two_view_transform(place, 32, parameters)
    views = TwoViewDataset(images, transform, seed=3)
    batch = TwoViewCollator()([views[0, index] for index in range(len(images))])
    expected = torch.stack([torch.from_numpy(np.array(images.load_image(index))) for index in range(len(images))])
    expected = (expected / 255 - torch.tensor(parameters.mean)) / torch.tensor(parameters.std)
    for view in finish_views(transform.device_half() if place == "device" else None, batch):
        torch.testing.assert_close(view, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)


def test_a_run_says_which_views_it_had_and_goes_on_with_no_others(tmp_path, capsys):
    runs = [["--output-dir", str(tmp_path / name), *TINY] for name in ("paper", "milder")]
    main(runs[0])
    settings = json.loads((tmp_path / "paper" / "pretraining_settings.json").read_text())
    assert "views" not in settings
    main([*runs[1], "--crop-scale", "0.4", "1", "--hue", "0"])
    settings = json.loads((tmp_path / "milder" / "pretraining_settings.json").read_text())
    assert settings["views"] == {"crop_scale": [0.4, 1.0], "hue": 0.0}
    assert "0.4" in (tmp_path / "milder" / "README.md").read_text()
    main([*runs[1][:2], "--resume"])  # takes the flags of the run from its folder
    with pytest.raises(SystemExit):
        main([*runs[1], "--resume", "--crop-scale", "0.5", "1", "--hue", "0"])
    assert "crop_scale was [0.4, 1.0] and is now [0.5, 1.0]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--crop-scale 0.4", "give two numbers"),
        ("--crop-scale 0.5 1.5", "a crop cannot be larger than its image"),
        ("--solarization-probability 0 2", "a probability lies in"),
        ("--hue 0.7", "half the colour circle is 0.5"),
    ],
)
def test_views_that_cannot_be_drawn_are_refused(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit):
        main(["--output-dir", str(tmp_path / "run"), *TINY, *flags.split()])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "pretraining_settings.json").exists()
