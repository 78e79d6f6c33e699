"""Weights and their preprocessing as one pair: carried, translated to and from timm, or refused."""

import json

import pytest
import timm
import torch
from foreign_checkpoints import moby_like, vit, yacs
from safetensors.torch import save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    EfficientNetImageProcessor,
    SwinConfig,
    SwinModel,
    TimmWrapperImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from synco_hub.data.evaluation_transform import EvaluationTransform, draw_pictures, make_view
from synco_hub.evaluation.measurement import EvaluatedModel
from synco_hub.hub.conversion.configuration import Choices
from synco_hub.hub.conversion.convert import ConversionSettings, convert
from synco_hub.hub.export.export import export
from synco_hub.hub.preprocessing import (
    choose_preprocessing,
    compare_with_timm,
    translate_from_timm,
    translate_to_timm,
)

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SQUASH = {"size": {"height": 32, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
CROP = {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}, "resample": 3}
PICTURE = next(draw_pictures((64, 80)))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def stock_vit(directory, processor=None, classes=None, **numbers):
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=32, patch_size=8, **{**SIZES, **numbers}, **({"num_labels": classes} if classes else {})
    )
    model = (ViTForImageClassification(config) if classes else ViTModel(config)).eval()
    model.save_pretrained(directory)
    if processor is not None:
        processor.save_pretrained(directory)
    return model


def pair_output(directory, picture=PICTURE, logits=False):
    """What a stranger gets by the Auto classes."""
    model = (AutoModelForImageClassification if logits else AutoModel).from_pretrained(directory).eval()
    pixels = AutoImageProcessor.from_pretrained(directory)(picture, return_tensors="pt").pixel_values
    with torch.no_grad():
        outputs = model(pixel_values=pixels)
    if logits:
        return outputs.logits
    return outputs.pooler_output if model.config.model_type == "synco" else outputs.last_hidden_state[:, 0]


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(**SQUASH),
        ViTImageProcessor(**CROP, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6]),
        ViTImageProcessor(**{**SQUASH, "do_normalize": False}),
        ViTImageProcessor(**{**SQUASH, "rescale_factor": 1 / 127.5}),
        EfficientNetImageProcessor(size={"height": 32, "width": 32}, rescale_offset=True, include_top=True),
    ],
)
def test_a_stock_classifier_answers_the_same_before_and_after(tmp_path, processor):
    stock_vit(tmp_path / "stock", processor, classes=5)
    report = convert(str(tmp_path / "stock"), tmp_path / "ours")
    for picture in (PICTURE, PICTURE.resize((40, 90)), PICTURE.convert("L").convert("RGB")):
        before, after = (pair_output(tmp_path / name, picture, logits=True) for name in ("stock", "ours"))
        assert (before - after).abs().max() < 1e-5
    said = json.loads((tmp_path / "ours" / "conversion_report.json").read_text())["preprocessing"]
    assert said["source"] == "carried over with the weights"
    assert said["pixels"] == 0
    assert said["features"] < 1e-5
    assert said["processor"]["image_processor_type"] == type(processor).__name__
    assert any("drawn pictures through the pair that was" in line for line in report.lines())


def test_a_stock_swin_keeps_its_processor_too(tmp_path):
    torch.manual_seed(0)
    config = SwinConfig(image_size=32, patch_size=2, embed_dim=24, depths=[1, 1], num_heads=[2, 4], window_size=4)
    model = SwinModel(config).eval()
    model.save_pretrained(tmp_path / "stock")
    processor = ViTImageProcessor(**SQUASH)
    processor.save_pretrained(tmp_path / "stock")
    convert(str(tmp_path / "stock"), tmp_path / "ours")
    with torch.no_grad():
        before = model(processor(PICTURE, return_tensors="pt").pixel_values).pooler_output
    assert (pair_output(tmp_path / "ours") - before).abs().max() < 1e-5


def test_what_a_source_does_not_say_is_assumed_aloud_or_given(tmp_path):
    stock_vit(tmp_path / "stock")
    torch.save(moby_like(vit(), vit(), yacs({"MODEL": {"ENCODER": "vit_small"}})), tmp_path / "file.pth")
    ViTImageProcessor(**SQUASH).save_pretrained(tmp_path / "other")
    for name, why in (("stock", "the source has no image processor"), ("file.pth", "a file of weights says nothing")):
        report = convert(str(tmp_path / name), tmp_path / f"assumed {name}")
        assert f"assumed, since {why}" in report.preprocessing["source"]
        assert AutoImageProcessor.from_pretrained(tmp_path / f"assumed {name}").size["shortest_edge"] == 37
        given = ConversionSettings(preprocessing=str(tmp_path / "other"))
        assert (
            "as given by --preprocessing"
            in convert(str(tmp_path / name), tmp_path / name[0], given).preprocessing["source"]
        )
        read = AutoImageProcessor.from_pretrained(tmp_path / name[0])
        assert torch.equal(make_view(read, PICTURE), make_view(ViTImageProcessor(**SQUASH), PICTURE))


def test_what_cannot_be_read_is_refused_unless_imagenets_is_wanted(tmp_path):
    stock_vit(tmp_path / "stock")
    (tmp_path / "stock" / "preprocessor_config.json").write_text('{"image_processor_type": "NobodysImageProcessor"}')
    with pytest.raises(ValueError, match=r"cannot be read .*--preprocessing imagenet"):
        convert(str(tmp_path / "stock"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_processor_without_a_size_is_carried_and_one_of_another_size_is_told(tmp_path):
    any_size = ViTImageProcessor(do_resize=False, image_mean=[0.3] * 3, image_std=[0.2] * 3)
    stock_vit(tmp_path / "any", any_size)
    report = convert(str(tmp_path / "any"), tmp_path / "any ours")
    assert report.preprocessing["features"] < 1e-5
    assert AutoImageProcessor.from_pretrained(tmp_path / "any ours").do_resize is False
    assert EvaluatedModel(None, any_size, "any").mean == (0.3, 0.3, 0.3)
    stock_vit(tmp_path / "larger", ViTImageProcessor(size={"height": 48, "width": 48}))
    report = convert(str(tmp_path / "larger"), tmp_path / "larger ours")
    assert "views of 48 x 48 for a network of 32" in "\n".join(report.lines())


@pytest.mark.parametrize(
    ("processor", "size", "crop_size"),
    [
        (ViTImageProcessor(**SQUASH), {"height": 64, "width": 64}, None),
        (ViTImageProcessor(**CROP), {"shortest_edge": 2 * CROP["size"]["shortest_edge"]}, 64),
    ],
)
def test_another_size_of_the_network_is_one_of_the_processor_too(tmp_path, processor, size, crop_size):
    stock_vit(tmp_path / "stock", processor)
    report = convert(str(tmp_path / "stock"), tmp_path / "ours", ConversionSettings(choices=Choices(image_size=64)))
    read = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert {key: side for key, side in dict(read.size).items() if side is not None} == size
    assert (read.crop_size["height"] if crop_size else None) == crop_size
    assert (read.image_mean, read.image_std, read.resample) == (
        processor.image_mean,
        processor.image_std,
        processor.resample,
    )
    assert pair_output(tmp_path / "ours").shape == (1, SIZES["hidden_size"])
    assert "made for 64 pixels instead of 32" in "\n".join(report.lines())
    # Whoever takes ImageNet's knowingly, or another one, may choose a size too; the same size changes nothing.
    for number, (given, pixels) in enumerate((("imagenet", 64), (str(tmp_path / "stock"), 64), (None, 32))):
        settings = ConversionSettings(choices=Choices(image_size=pixels), preprocessing=given)
        convert(str(tmp_path / "stock"), tmp_path / f"{number}", settings)
        assert pair_output(tmp_path / f"{number}").shape == (1, SIZES["hidden_size"])
    assert AutoImageProcessor.from_pretrained(tmp_path / "2").to_dict() == processor.to_dict()


def test_what_timm_documents_is_made_for_another_size(tmp_path):
    timm_directory(tmp_path / "timm", crop_pct=0.8)
    convert(str(tmp_path / "timm"), tmp_path / "ours", ConversionSettings(choices=Choices(image_size=64)))
    assert AutoImageProcessor.from_pretrained(tmp_path / "ours").size["shortest_edge"] == 80
    assert pair_output(tmp_path / "ours").ndim == 2


def test_one_channel_agrees_with_the_network_or_is_refused(tmp_path):
    grey = ViTImageProcessor(**{**SQUASH, "image_mean": [0.3], "image_std": [0.2]}, do_convert_rgb=False)
    for name, processor in (("grey", grey), ("silent", None)):
        model = stock_vit(tmp_path / name, processor, num_channels=1)
        convert(str(tmp_path / name), tmp_path / f"{name} ours")
        read = AutoImageProcessor.from_pretrained(tmp_path / f"{name} ours")
        view = read(PICTURE.convert("L"), return_tensors="pt").pixel_values
        assert view.shape == (1, 1, 32, 32)
        with torch.no_grad():
            expected = model(view).last_hidden_state[:, 0]
        assert (pair_output(tmp_path / f"{name} ours", PICTURE.convert("L")) - expected).abs().max() < 1e-5
        assert EvaluationTransform.from_image_processor(read)(PICTURE).shape == (1, 32, 32)
    stock_vit(tmp_path / "mixed", ViTImageProcessor(**SQUASH), num_channels=1)
    with pytest.raises(ValueError, match="gives 3 channels, the network reads 1: give --preprocessing"):
        convert(str(tmp_path / "mixed"), tmp_path / "mixed ours")
    convert(str(tmp_path / "mixed"), tmp_path / "mixed ours", ConversionSettings(preprocessing="imagenet"))


def timm_directory(directory, **documented):
    network = vit(num_heads=3, sincos=False)
    directory.mkdir()
    cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, **documented}
    config = {"architecture": "vit_small_patch16_224", "num_classes": 0, "pretrained_cfg": cfg}
    config["model_args"] = {"depth": 2, "num_heads": 3, "img_size": 32}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(dict(network.state_dict()), directory / "model.safetensors")
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=cfg), is_training=False)
    return network, transform


@pytest.mark.parametrize(
    "documented",
    [
        {"crop_pct": 0.875, "interpolation": "bicubic"},
        {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"},
        {"crop_pct": 0.8, "crop_mode": "squash", "interpolation": "bicubic"},
    ],
)
def test_what_a_timm_repository_documents_is_written(tmp_path, documented):
    network, theirs = timm_directory(tmp_path / "timm", **documented)
    report = convert(str(tmp_path / "timm"), tmp_path / "ours")
    ours = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    for size in ((80, 72), (72, 88)):
        picture = PICTURE.resize(size)
        assert ((make_view(ours, picture) - theirs(picture)) * 0.25 * 255).abs().max() < 2.01
        with torch.no_grad():
            features = network(theirs(picture)[None])
        assert (pair_output(tmp_path / "ours", picture) - features).abs().max() < 0.05 * features.abs().max()
    assert "timm's pretrained_cfg" in report.preprocessing["source"]


def test_a_timm_network_with_other_parts_is_refused(tmp_path):
    timm_directory(tmp_path / "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    config["model_args"]["qk_norm"] = True
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"model_args \(qk_norm\)"):
        convert(str(tmp_path / "timm"), tmp_path / "ours")


def test_a_border_is_refused_with_a_way_out():
    border = TimmWrapperImageProcessor({"input_size": (3, 32, 32), "crop_mode": "border"})
    with pytest.raises(ValueError, match=r"crop_mode 'border'.*--preprocessing imagenet"):
        translate_from_timm(border)
    assert choose_preprocessing("imagenet", border, 32, 3, told=True).processor.crop_size["height"] == 32


@pytest.mark.parametrize("edge", [33, 36, 37, 38, 39, 40, 64, 256])
@pytest.mark.parametrize("resample", [2, 3])
def test_every_resize_and_crop_has_words_in_timm(edge, resample):
    crop = {"size": {"shortest_edge": edge}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    processor = ViTImageProcessor(**crop, resample=resample)
    words = translate_to_timm(processor)
    back = translate_from_timm(TimmWrapperImageProcessor(words))
    assert torch.equal(make_view(back, PICTURE), make_view(processor, PICTURE))
    assert compare_with_timm(processor, TimmWrapperImageProcessor(words)) <= 2.01
    squash = ViTImageProcessor(size={"height": edge, "width": edge}, resample=resample)
    assert translate_to_timm(squash)["crop_mode"] == "squash"


def test_what_timm_has_no_words_for_is_refused():
    for processor in (
        EfficientNetImageProcessor(size={"height": 32, "width": 32}, rescale_offset=True),
        ViTImageProcessor(
            size={"height": 40, "width": 36}, do_center_crop=True, crop_size={"height": 32, "width": 32}
        ),
        ViTImageProcessor(**{**SQUASH, "do_normalize": False}),
    ):
        with pytest.raises(ValueError, match=r"timm .*export to transformers or onnx"):
            translate_to_timm(processor)


@pytest.mark.parametrize("format_name", ["transformers", "timm", "safetensors"])
@pytest.mark.parametrize("processor", [ViTImageProcessor(**SQUASH), ViTImageProcessor(**CROP)], ids=["squash", "crop"])
def test_there_and_back_is_the_same_pair(tmp_path, format_name, processor):
    stock_vit(tmp_path / "stock", processor)
    convert(str(tmp_path / "stock"), tmp_path / "ours")
    report = export(str(tmp_path / "ours"), tmp_path / "exported", format_name)
    if format_name == "transformers":
        assert report.details["pictures"]["pixels"] == 0
        assert report.details["pictures"]["outputs"] < 1e-5
    if format_name == "timm":
        words = json.loads((tmp_path / "exported" / "config.json").read_text())["pretrained_cfg"]
        theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=words), is_training=False)
        picture = PICTURE.resize((96, 80))
        assert ((theirs(picture) - make_view(processor, picture)) * 0.5 * 255).abs().max() < 2.01
        assert report.details["pictures"]["pixels"] < 0.02
    name = tmp_path / "exported" / ("backbone.safetensors" if format_name == "safetensors" else "")
    convert(str(name), tmp_path / "back")
    assert (pair_output(tmp_path / "back") - pair_output(tmp_path / "stock")).abs().max() < 1e-5
