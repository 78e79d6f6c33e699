import pytest
import timm
import torch
from PIL import Image

from synco_hub.evaluation.dense_features import any_size_features
from synco_hub.feature_adapter import feature_rule, image_features
from synco_hub.hub.loading import check_model_name, load_model, model_facts
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


def test_a_path_to_nothing_is_told_without_asking_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for name in ("out/p1", "./p1", "../p1", "~/p1-of-nobody", str(tmp_path / "p1")):
        with pytest.raises(ValueError, match=f"'{name}' looks like a path, and there is no such directory"):
            check_model_name(name)
    check_model_name("organisation/name")


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "resnet18"])
def test_timms_other_families_load_too(monkeypatch, name):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    model, _ = load_model(f"timm:{name}")
    with torch.no_grad():
        assert image_features(model, torch.randn(1, 3, 192, 160), feature_rule(model)).shape[0] == 1


def test_a_timm_name_gives_the_headless_network_with_timms_preprocessing(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    model, processor = load_model("timm:vit_tiny_patch16_224")
    assert not model.training
    assert model_facts(model, processor) == (
        "feature: [CLS] token after the final norm; images: resize 248 bicubic, centre crop 224"
    )
    assert list(processor.image_mean) == [0.5, 0.5, 0.5]
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    fixed = create("vit_tiny_patch16_224", num_classes=0).eval()
    fixed.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(pixels), fixed(pixels))
        assert any_size_features(model, pixels[..., :64, :96], feature_rule(model)).shape == (1, 192)
        with pytest.raises(ValueError, match="is 60x96, which is not cut into whole patches of 16x16"):
            any_size_features(model, pixels[..., :60, :96], feature_rule(model))
    with pytest.raises(ValueError, match=r"no model 'vit_tini_patch16_224'.*vit_tiny_patch16_224"):
        load_model("timm:vit_tini_patch16_224")
