import pytest
import torch
from PIL import Image

from synco_hub.hub.loading import load_model
from synco_hub.models import SynCoConfig, SynCoModel, image_processor


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SYNCO_HUB_HOME", str(tmp_path / "home"))


def test_a_directory_gives_a_frozen_model_and_its_processor(tmp_path):
    SynCoModel(SynCoConfig(backbone="swin-nano")).save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    model, processor = load_model(str(tmp_path / "run"))
    assert not model.training
    pixels = processor(Image.new("RGB", (50, 70), "red"), return_tensors="pt").pixel_values
    with torch.no_grad():
        assert model(pixels).pooler_output.shape == (1, 96)


def test_wrong_names_get_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'synco-v2-vit-nano'"):
        load_model("synco-v2-vit-nan")
    with pytest.raises(ValueError, match=r"without config\.json"):
        load_model(str(tmp_path))
    with pytest.raises(OSError, match="Three ways"):
        load_model("byol-swin-t")
