import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from synco_hub.cli.main import app
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
    result = CliRunner().invoke(
        app, ["attention", "--model", model, "--image", str(image), "--output", str(output), "--mass", "0.6"]
    )
    assert result.exit_code == 0, result.output
    assert output.stat().st_size > 2000
    if ending == "png":
        assert len(Image.open(output).convert("L").getcolors(1 << 20) or []) > 50


def test_a_swin_and_a_broken_image_get_a_clear_error(tmp_path):
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(image)
    model = checkpoint(tmp_path / "swin", "swin-nano")
    flags = ["--image", str(image), "--output", str(tmp_path / "figure.png")]
    result = CliRunner().invoke(app, ["attention", "--model", model, *flags])
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)
    image.write_bytes(b"")
    result = CliRunner().invoke(app, ["attention", "--model", model, *flags])
    assert "image.png" in str(result.exception)
    assert not (tmp_path / "figure.png").exists()
