import dataclasses

import pytest

from synco_hub.data import StreamedImages, load_dataset
from trainers.pretraining_run import build_config, open_images
from trainers.recipe import parse
from trainers.settings import BackboneArguments, DataArguments, PretrainingSettings


def test_flags_describe_a_config(tmp_path):
    flags = ["--backbone", "vit-nano", "--image-size", "64", "--num_heads", "8", "--depth", "2", "--use-cpu"]
    run = parse([*flags, "--output-dir", str(tmp_path), "--method", "moby"])
    config = build_config(run.backbone, run.settings)
    assert (config.backbone, config.image_size, config.num_heads, config.depth) == ("vit-nano", 64, 8, 2)
    assert config.pretraining == dataclasses.asdict(PretrainingSettings(method="moby"))
    assert config.embed_dim == 96


def test_swin_takes_one_number_a_stage():
    backbone = BackboneArguments(backbone="swin-nano", depth=[2, 4], num_heads=[3, 6])
    config = build_config(backbone, PretrainingSettings())
    assert (config.depth, config.num_heads) == ([2, 4], [3, 6])


def test_a_bad_head_count_is_refused():
    with pytest.raises(ValueError, match="num_heads=5 does not divide"):
        build_config(BackboneArguments(backbone="deit-s", num_heads=[5]), PretrainingSettings())


def test_images_by_position_are_no_stream():
    data = DataArguments(dataset="fractals:num_classes=2,train_images_per_class=3,test_images_per_class=1")
    stream, images = open_images(data, 32, seed=0)
    assert stream is None
    assert not isinstance(images, StreamedImages)
    assert len(images) == 6
    assert images.description == load_dataset(data, "train", image_size=32).description
    assert len(load_dataset(data, "test", image_size=32, max_images=1)) == 1
