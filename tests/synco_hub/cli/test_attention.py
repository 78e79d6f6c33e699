import numpy as np
import pytest
import torch
from command_line import invoke
from PIL import Image
from transformers import Siglip2ImageProcessor, Siglip2VisionConfig, Siglip2VisionModel

from synco_hub.cli.attention import _grid
from synco_hub.cli.options import AttentionOptions
from synco_hub.data import decode_rgb
from synco_hub.hub.loading import LinearHead, load_with_head, save_classifier
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


def checkpoint(directory, backbone: str) -> str:
    SynCoModel(SynCoConfig(backbone=backbone)).save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("ending", ["png", "pdf"])
def test_a_figure_is_drawn_from_any_image(tmp_path, ending):
    torch.manual_seed(0)
    model, image = checkpoint(tmp_path / "model", "vit-nano"), tmp_path / "image.jpg"
    Image.new("CMYK", (200, 90), (10, 200, 30, 0)).save(image)
    output = tmp_path / f"figure.{ending}"
    result = invoke(["attention", "--model", model, "--image", str(image), "--output", str(output), "--mass", "0.6"])
    assert result.exit_code == 0, result.output
    assert output.stat().st_size > 2000
    if ending == "png":
        assert len(Image.open(output).convert("L").getcolors(1 << 20) or []) > 50


def test_images_and_models_make_a_grid(tmp_path):
    torch.manual_seed(0)
    flags = []
    for backbone in ("vit-nano", "swin-nano"):
        flags += ["--model", checkpoint(tmp_path / backbone, backbone)]
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.effect_noise((90, 60), 40 + 40 * number).save(path)
        flags += ["--image", str(path)]
    # What the paper shows of each: two maps of the ViT, two of the Swin, beside the input.
    sizes = {}
    for name, kinds in {
        "paper": [],
        "one": ["--kind", "tokens"],
        "more": ["--kind", "cam", "--kind", "foreground"],
    }.items():
        output = tmp_path / f"{name}.png"
        result = invoke(["attention", *flags, *kinds, "--output", str(output), "--detail", "2"])
        assert result.exit_code == 0, result.output
        sizes[name] = Image.open(output).size
    assert sizes["one"][0] < sizes["more"][0] == sizes["paper"][0]


def test_a_map_that_does_not_fit_an_unknown_kind_and_a_broken_image_get_a_clear_error(tmp_path):
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(image)
    model = checkpoint(tmp_path / "swin", "swin-nano")
    flags = ["--model", model, "--image", str(image), "--output", str(tmp_path / "figure.png")]
    for kind, message in {"cls": "Swin", "rollout": "within windows", "nothing": "choose among cls, patch"}.items():
        result = invoke(["attention", *flags, "--kind", kind])
        assert result.exit_code == 1
        assert isinstance(result.exception, ValueError)
        assert message in str(result.exception)
    image.write_bytes(b"")
    assert "image.png" in str(invoke(["attention", *flags]).exception)
    assert not (tmp_path / "figure.png").exists()


@pytest.mark.parametrize("kind", [[], ["--kind", "tokens"], ["--kind", "cam"]])
def test_a_network_that_is_given_patches_is_said_to_be_one(tmp_path, kind):
    config = Siglip2VisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, patch_size=8, num_patches=16
    )
    Siglip2VisionModel(config).save_pretrained(tmp_path)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(tmp_path)
    Image.new("RGB", (64, 48)).save(tmp_path / "image.png")
    done = invoke(["attention", "--model", str(tmp_path), "--image", str(tmp_path / "image.png"), *kind])
    assert isinstance(done.exception, ValueError)
    assert "Siglip2ImageProcessor gives values of shape (16, 192) an image" in str(done.exception)
    assert "fixed resolution" in str(done.exception)


def test_gradients_say_of_what_and_equal_names_do_not_collide(tmp_path, monkeypatch):
    torch.manual_seed(0)
    image = tmp_path / "image.png"
    Image.effect_noise((480, 300), 90).save(image)
    (tmp_path / "a").mkdir()
    bare = checkpoint(tmp_path / "a" / "last", "swin-nano")
    # Whatever is seen, the second class wins.
    head = LinearHead(torch.zeros(2, 96), torch.tensor([0.0, 1.0]), ("fern", "tree"))
    network = SynCoModel.from_pretrained(bare)
    save_classifier(tmp_path / "b" / "last", "mine", network, image_processor(32), head)
    drawn = []
    monkeypatch.setattr(
        "synco_hub.cli.attention.save_figure", lambda figure, path: drawn.append(figure) or path, raising=True
    )
    flags = ["--model", bare, "--model", str(tmp_path / "b" / "last"), "--image", str(image), "--kind", "saliency"]
    result = invoke(["attention", *flags])
    assert result.exit_code == 0, (result.output, result.exception)
    assert "norm of the feature (this checkpoint has no classifier)" in result.output
    assert "score of predicted class tree" in result.output
    (figure,) = drawn
    # The figure is narrow and the paths are long: lines are broken where they have to.
    assert "".join(figure.get_supxlabel().split()) == "".join(
        f"{bare}: gradients of the norm of the feature (this checkpoint has no classifier)"
        f"{tmp_path / 'b' / 'last'}: gradients of the score of predicted class tree".split()
    )
    assert len(figure.axes) == 1 + 2 + 1  # the input, a map of each model, the colour bar


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_every_kind_that_fits_draws_any_image_at_any_detail(tmp_path, backbone):
    torch.manual_seed(0)
    model, flags = checkpoint(tmp_path / "model", backbone), []
    for number, size in enumerate([(480, 480), (300, 90), (40, 300)]):
        path = tmp_path / f"{number}.webp"
        Image.effect_noise(size, 60).save(path)
        flags += ["--image", str(path)]
    kinds = ["cls", "patch", "rollout"] if backbone == "vit-nano" else ["windows"]
    for kind in [*kinds, "cam", "saliency", "tokens", "foreground"]:
        flags += ["--kind", kind]
    output = tmp_path / "figure.pdf"
    more = ["--detail", "3", "--mass", "0.5", "--strength", "0.5", "--output", str(output)]
    result = invoke(["attention", "--model", model, *flags, *more])
    assert result.exit_code == 0, (result.output, result.exception)
    assert output.read_bytes().startswith(b"%PDF")


def test_models_that_crop_differently_have_an_input_each(tmp_path, monkeypatch):
    pixels = np.random.default_rng(3).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((240, 180)).save(tmp_path / "picture.png")
    models = {}
    for name, crop in (("a", None), ("b", None), ("c", 96)):
        SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / name)
        processor = image_processor(32)
        if crop is not None:
            processor.size = {"shortest_edge": crop}
        processor.save_pretrained(tmp_path / name)
        models[name] = load_with_head(str(tmp_path / name))
    figure = _grid(
        models,
        [decode_rgb(tmp_path / "picture.png")],
        AttentionOptions(["m"], [tmp_path / "picture.png"], kind=["cls"]),
    )
    titles = [axis.get_title(loc="left").strip() for axis in figure.axes[:-1]]
    assert [title.splitlines()[0] for title in titles] == [
        "Input (centre crop)", "a", "b", "Input (centre crop)", "c"
    ]  # fmt: skip
