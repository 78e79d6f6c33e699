"""The whole command on a small tree in the official layout, whose average precision is planted by colours."""

import json
import pickle

import pytest
import torch
from command_line import invoke
from PIL import Image

from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    SynCoModel(SynCoConfig(backbone="vit-nano", depth=1)).save_pretrained(tmp_path / "model")
    image_processor(32).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def shade(step):
    """From red to blue: the nearer in colour, the nearer in any network's features."""
    return 250 - 40 * step, 20, 10 + 40 * step


@pytest.fixture
def benchmark(tmp_path):
    """Six shades; the query is red inside its box and blue around it, the second one has no positive at all."""
    folder = tmp_path / "data" / "rparis6k"
    (folder / "jpg").mkdir(parents=True)
    for step in range(6):
        Image.new("RGB", (40, 56), shade(step)).save(folder / "jpg" / f"paris_{step}.jpg", quality=100)
    query = Image.new("RGB", (64, 64), shade(5))
    query.paste(shade(0), (16, 8, 48, 56))
    for name in ("louvre", "nothing"):
        query.save(folder / "jpg" / f"{name}.jpg", quality=100)
    box = [16.0, 8.0, 48.0, 56.0]
    ground_truth = {
        "imlist": [f"paris_{step}" for step in range(6)],
        "qimlist": ["louvre", "nothing"],
        "gnd": [
            {"bbx": box, "easy": [0], "hard": [2], "junk": [1]},
            {"bbx": box, "easy": [], "hard": [], "junk": [3]},
        ],
    }
    (folder / "gnd_rparis6k.pkl").write_bytes(pickle.dumps(ground_truth))
    return folder.parent


def run(model, data, output, *flags):
    arguments = ["--model", model, "--data-dir", str(data), "--dataset", "rparis6k", "--output", str(output)]
    return invoke(["evaluate", "retrieval", *arguments, "--num-workers", "0", *flags])


def test_planted_average_precision(model, benchmark, tmp_path):
    done = run(model, benchmark, tmp_path / "r.json", "--save-features", str(tmp_path / "features"))
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "r.json").read_text())
    # By colour 0 comes first, then 1 (junk), then 2: every setup is perfect, with its one query.
    assert result["metrics"]["map_easy"] == result["metrics"]["map_medium"] == result["metrics"]["map_hard"] == 100.0
    assert result["metrics"]["mp5_medium"] == 100.0
    parameters = result["protocol"]["parameters"]
    assert parameters["queries_counted"] == {"easy": 1, "medium": 1, "hard": 1}
    assert parameters["crop_queries"] is True
    assert len(parameters["scales"]) == 3
    assert result["partial"] is True  # not the published numbers of images
    again = run(model, benchmark, tmp_path / "again.json", "--save-features", str(tmp_path / "features"))
    assert again.exit_code == 0
    assert json.loads((tmp_path / "again.json").read_text())["metrics"] == result["metrics"]


def test_without_the_crop_the_surroundings_decide(model, benchmark, tmp_path):
    """The blue frame pulls the query away from red: image 5 comes before image 0 or the crop did nothing."""
    assert run(model, benchmark, tmp_path / "r.json", "--no-crop-query", "--scale", "1").exit_code == 2
    done = run(model, benchmark, tmp_path / "r.json", "--no-crop-queries", "--scale", "1")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "r.json").read_text())["metrics"]["map_easy"] < 100.0


def test_other_settings_do_not_take_kept_features(model, benchmark, tmp_path):
    flags = ["--save-features", str(tmp_path / "features")]
    assert run(model, benchmark, tmp_path / "r.json", *flags).exit_code == 0
    other = run(model, benchmark, tmp_path / "r.json", *flags, "--max-side", "32")
    assert other.exit_code == 1
    assert "another measurement" in str(other.exception)


def test_bad_input_writes_nothing(model, benchmark, tmp_path):
    (benchmark / "rparis6k" / "jpg" / "paris_4.jpg").unlink()
    missing = run(model, benchmark, tmp_path / "r.json")
    assert missing.exit_code == 1
    assert "paris_4.jpg" in str(missing.exception)
    assert not (tmp_path / "r.json").exists()
