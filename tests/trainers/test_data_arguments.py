import pytest

from trainers.data_arguments import BackboneArguments, DataArguments
from trainers.pretraining_flags import parse


def test_flags_describe_a_config(tmp_path):
    flags = ["--backbone", "vit-nano", "--image-size", "64", "--num_heads", "8", "--depth", "2", "--use-cpu"]
    config = parse([*flags, "--output-dir", str(tmp_path)]).backbone.config({"method": "moby"})
    assert (config.backbone, config.image_size, config.num_heads, config.depth) == ("vit-nano", 64, 8, 2)
    assert config.pretraining == {"method": "moby"}
    assert config.embed_dim == 96


def test_swin_takes_one_number_a_stage():
    config = BackboneArguments(backbone="swin-nano", depth=[2, 4], num_heads=[3, 6]).config({})
    assert (config.depth, config.num_heads) == ([2, 4], [3, 6])


def test_a_bad_head_count_is_refused():
    with pytest.raises(ValueError, match="num_heads=5 does not divide"):
        BackboneArguments(backbone="deit-s", num_heads=[5]).config({})


def test_the_embedded_data_set_is_the_default():
    assert DataArguments().dataset == "fractals"
