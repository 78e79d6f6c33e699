"""`synco-hub evaluate` of one protocol, as a user calls it."""

import json

import pytest
import torch
from command_line import invoke
from PIL import Image

from synco_hub.errors import DoesNotApplyError
from synco_hub.models import SynCoConfig, SynCoModel, image_processor

ANNOTATION = """<annotation><object><name>cat</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>
<ymax>{}</ymax></bndbox></object></annotation>"""


def saved(tmp_path, backbone):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone=backbone)).save_pretrained(tmp_path / backbone)
    image_processor(32).save_pretrained(tmp_path / backbone)
    return str(tmp_path / backbone)


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for number in range(3):
        image = Image.new("RGB", (64, 48), (30, 60, 90))
        image.paste((230, 200, 20), (16, 16, 40, 40))
        image.save(root / "JPEGImages" / f"{number:06d}.jpg", quality=100)
        # The first two boxes cover the image, every box of half its area counts; the third can be met by none.
        box = (1, 1, 64, 48) if number < 2 else (64, 48, 64, 48)
        (root / "Annotations" / f"{number:06d}.xml").write_text(ANNOTATION.format(*box))
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("000000\n000001\n000002\n")
    return tmp_path


def run(model, data, output, *flags):
    arguments = ["--model", model, "--data-dir", str(data), "--output", str(output)]
    return invoke(["evaluate", "discovery", *arguments, *flags])


@pytest.mark.parametrize("method", ["lost", "tokencut"])
def test_from_a_folder_to_a_result_and_a_figure(voc, tmp_path, method):
    model, output = saved(tmp_path, "vit-nano"), tmp_path / "d.json"
    flags = ["--method", method, "--figure", str(tmp_path / "d.png"), "--save-boxes", str(tmp_path / "boxes")]
    done = run(model, voc, output, *flags)
    assert done.exit_code == 0, done.output
    result = json.loads(output.read_text())
    # Equal images have equal boxes: either both of the first two count or neither.
    assert result["metrics"]["corloc"] in (0.0, pytest.approx(200 / 3))
    kept = json.loads((tmp_path / "boxes" / "boxes.json").read_text())
    boxes = {name: entry["box"] for name, entry in kept.items()}
    left, top, right, bottom = boxes["000000"]
    share = (right - left) * (bottom - top) / (64 * 48)
    assert (result["metrics"]["corloc"] > 0) == (share >= 0.5)
    assert boxes["000000"] == boxes["000001"] == boxes["000002"]
    assert Image.open(tmp_path / "d.png").size[0] > 100


def test_a_subset_is_partial_and_bad_input_writes_nothing(voc, tmp_path):
    model, output = saved(tmp_path, "vit-nano"), tmp_path / "d.json"
    done = run(model, voc, output, "--num-images", "2")
    assert done.exit_code == 0
    assert json.loads(output.read_text())["partial"] is True
    output.unlink()
    for flags, code, message in (
        (["--method", "dino"], 2, "'lost', 'tokencut'"),
        (["--split", "test"], 1, "test.txt"),
    ):
        bad = run(model, voc, output, *flags)
        assert bad.exit_code == code
        assert message in str(bad.exception)
    swin = run(saved(tmp_path, "swin-nano"), voc, output)
    assert "is a Swin" in str(swin.exception)
    assert isinstance(swin.exception, DoesNotApplyError)
    assert not output.exists()
