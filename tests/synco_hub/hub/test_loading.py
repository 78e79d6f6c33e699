import json
import logging
import os

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    Data2VecVisionConfig,
    Data2VecVisionModel,
    FlavaImageConfig,
    FlavaImageModel,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViTConfig,
    ViTImageProcessor,
    ViTMAEConfig,
    ViTMAEModel,
    ViTModel,
)

from synco_hub.data import EvaluationTransform
from synco_hub.errors import DoesNotApplyError
from synco_hub.evaluation.dense_features import compute_any_size_features
from synco_hub.feature_pooling import compute_image_features, find_feature_network, find_feature_rule
from synco_hub.hub import model_names
from synco_hub.hub.loading import (
    LinearHead,
    describe_model_facts,
    load_classifier,
    load_model,
    load_processor,
    load_with_head,
    save_classifier,
)
from synco_hub.hub.model_names import HEAD_FACTS, check_model_name
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor
from synco_hub.visualization import attention_maps, class_score
from synco_hub.visualization.overlay import prepared_image


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


SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def test_families_are_told_what_their_feature_needs(tmp_path):
    torch.manual_seed(0)
    masked = ViTMAEModel(ViTMAEConfig(**SMALL, mask_ratio=0.75)).eval()
    unpooled = Data2VecVisionModel(Data2VecVisionConfig(**SMALL)).eval()
    images = torch.randn(2, 3, 32, 32)
    found = {}
    for name, network in (("masked", masked), ("unpooled", unpooled)):
        network.save_pretrained(tmp_path / name)
        image_processor(32).save_pretrained(tmp_path / name)
        loaded, _ = load_model(str(tmp_path / name))
        with torch.no_grad():
            found[name] = compute_image_features(loaded, images, find_feature_rule(loaded))
    masked.config.mask_ratio = 0.0
    with torch.no_grad():
        whole, tokens = masked(images).last_hidden_state[:, 0], unpooled(images).last_hidden_state
    torch.testing.assert_close(found["masked"], whole, rtol=1e-4, atol=1e-5)
    pooled = torch.nn.functional.layer_norm(tokens[:, 1:].mean(dim=1), (24,), eps=1e-12)
    torch.testing.assert_close(found["unpooled"], pooled)


def test_what_transformers_wraps_of_timm_takes_other_sizes_too(tmp_path):
    torch.manual_seed(0)
    TimmWrapperModel(TimmWrapperConfig(architecture="test_vit")).save_pretrained(tmp_path / "wrapped")
    ViTImageProcessor(size={"height": 160, "width": 160}).save_pretrained(tmp_path / "wrapped")
    wrapped, _ = load_model(str(tmp_path / "wrapped"))
    small, images = timm.create_model("test_vit", num_classes=0, img_size=64).eval(), torch.randn(1, 3, 64, 64)
    state = wrapped.timm_model.state_dict()
    state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], (4, 4), (10, 10))
    small.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(
            compute_any_size_features(wrapped.timm_model, images, find_feature_rule(wrapped)), small(images)
        )


def test_an_adapter_is_named_with_what_loads_it(tmp_path, monkeypatch):
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path / "base")
    image_processor(32).save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    file, name = tmp_path / "adapter" / "adapter_config.json", str(tmp_path / "adapter")
    file.write_text(json.dumps({"base_model_name_or_path": str(tmp_path / "base"), "peft_type": "LORA"}))
    monkeypatch.setattr(model_names, "is_peft_available", lambda: False)
    with pytest.raises(ValueError, match=r"is an adapter of '.*base', which peft loads: pip install peft"):
        load_model(name)
    monkeypatch.setattr(model_names, "is_peft_available", lambda: True)
    check_model_name(name)
    assert load_processor(name).crop_size["height"] == 32
    file.write_text(json.dumps({"base_model_name_or_path": "./gone"}))
    with pytest.raises(ValueError, match=r"adapter of another: model './gone' looks like a path"):
        check_model_name(name)


def test_a_path_to_nothing_is_told_without_asking_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    for name in ("out/p1", "./p1", "../p1", "~/p1-of-nobody", str(tmp_path / "p1")):
        with pytest.raises(ValueError, match=f"'{name}' looks like a path, and there is no such directory"):
            check_model_name(name)
    check_model_name("organisation/name")


def test_a_commit_in_a_name_is_told_its_flag():
    pulled = "`synco-hub pull organisation/name --revision 1a2b3c`"
    with pytest.raises(ValueError, match=rf"give organisation/name and --model-revision 1a2b3c .*{pulled}"):
        check_model_name("organisation/name@1a2b3c")


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "resnet18"])
def test_timms_other_families_load_too(monkeypatch, name):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    model, _ = load_model(f"timm:{name}")
    with torch.no_grad():
        assert compute_image_features(model, torch.randn(1, 3, 192, 160), find_feature_rule(model)).shape[0] == 1


def test_a_timm_name_gives_the_headless_network_with_timms_preprocessing(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    model, processor = load_model("timm:vit_tiny_patch16_224")
    assert not model.training
    assert describe_model_facts(model, processor) == (
        "feature: [CLS] token after the final norm; images: TimmWrapperImageProcessor itself, 224 x 224, "
        "interpolation bicubic, crop_pct 0.9, crop_mode center"
    )
    assert EvaluationTransform.from_image_processor(processor).mean == pytest.approx((0.5, 0.5, 0.5), abs=1e-6)
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    fixed = create("vit_tiny_patch16_224", num_classes=0).eval()
    fixed.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(pixels), fixed(pixels))
        assert compute_any_size_features(model, pixels[..., :64, :96], find_feature_rule(model)).shape == (1, 192)
        with pytest.raises(ValueError, match="is 60x96, which is not cut into whole patches of 16x16"):
            compute_any_size_features(model, pixels[..., :60, :96], find_feature_rule(model))
    with pytest.raises(ValueError, match=r"no model 'vit_tini_patch16_224'.*vit_tiny_patch16_224"):
        load_model("timm:vit_tini_patch16_224")


@pytest.mark.parametrize(
    "documented",
    [
        {"crop_mode": "center", "crop_pct": 0.875, "interpolation": "bilinear"},
        {"crop_mode": "squash", "crop_pct": 1.0, "interpolation": "bicubic"},
        {"crop_mode": "squash", "crop_pct": 0.95, "interpolation": "lanczos"},
        {"crop_mode": "border", "crop_pct": 1.0, "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3)},
    ],
)
def test_a_timm_name_sees_images_as_timm_documents_it(monkeypatch, documented):
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda name, pretrained, **rest: create(name, pretrained_cfg_overlay=documented, **rest)
    )
    model, processor = load_model("timm:test_vit")
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    transform = EvaluationTransform.from_image_processor(processor)
    for size in ((300, 200), (187, 301), (90, 70)):
        picture = Image.effect_noise((9, 7), 90).convert("RGB").resize(size)
        assert (transform(picture) - theirs(picture)).abs().max() < 1e-6
        prepared = prepared_image(picture, processor, 2, shown_side=400)
        assert prepared.pixel_values.shape[-2:] == (320, 320)
        small = Image.fromarray((prepared.shown * 255).astype("uint8")).resize((160, 160), Image.Resampling.BOX)
        pixels = transform.without_normalisation()(picture).permute(1, 2, 0).numpy()
        assert abs(np.asarray(small) / 255 - pixels).mean() < 0.03


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_what_timm_itself_writes_loads_with_and_without_its_head(tmp_path, name):
    """Its newer versions record the arguments that the network was built with, the number of classes among them."""
    network = timm.create_model(name, num_classes=5).eval()
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] = {"in_chans": 3, "num_classes": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, processor = load_model(str(tmp_path))
    classifier, _, names = load_classifier(str(tmp_path))
    pixels = torch.randn(2, *EvaluationTransform.from_image_processor(processor).shape)
    with torch.no_grad():
        features = compute_image_features(find_feature_network(model), pixels, find_feature_rule(model))
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
        assert torch.allclose(features, expected, atol=1e-5)
        assert torch.allclose(classifier(pixels).logits, network(pixels), atol=1e-5)
    assert len(names) == 5


def test_our_backbone_becomes_a_whole_classifier(tmp_path):
    torch.manual_seed(0)
    network = SynCoModel(SynCoConfig(backbone="swin-nano")).eval()
    head = LinearHead(torch.randn(3, 96), torch.randn(3), ("a", "b", "c"))
    save_classifier(tmp_path / "run", "mine", network, image_processor(32), head)
    classifier, processor, names = load_classifier(str(tmp_path / "run"))
    assert isinstance(classifier, SynCoForImageClassification)
    assert names == ("a", "b", "c")
    assert processor.crop_size["height"] == 32
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).pooler_output @ head.weight.T + head.bias
        assert torch.allclose(classifier(images).logits, expected, atol=1e-6)


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_who_may_read_a_head_is_said_by_the_umask(tmp_path, umask):
    ours = SynCoModel(SynCoConfig(backbone="vit-nano"))
    foreign = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32))
    before = os.umask(umask)
    try:
        for name, network, width in (("ours", ours, 96), ("foreign", foreign, 16)):
            head = LinearHead(torch.zeros(2, width), torch.zeros(2), ("a", "b"))
            save_classifier(tmp_path / name, "org/name", network, image_processor(32), head)
    finally:
        os.umask(before)
    written = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"model.safetensors", "linear_head.safetensors", "config.json", "modeling_synco.py"} <= set(written)
    assert set(written.values()) == {oct(0o666 & ~umask)}, written


def test_a_foreign_backbone_is_named(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    torch.manual_seed(1)
    network = ViTModel(config, add_pooling_layer=False).eval()
    network.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    head = LinearHead(torch.randn(2, 16), torch.randn(2), ("a", "b"), multi_label=True)
    save_classifier(tmp_path / "run", str(tmp_path / "vit"), network, image_processor(32), head)
    classifier, _, _ = load_classifier(str(tmp_path / "run"))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = network(images).last_hidden_state[:, 0] @ head.weight.T + head.bias
        assert torch.allclose(classifier(images).logits, expected, atol=1e-6)
    assert classifier.multi_label
    facts = (tmp_path / "run" / HEAD_FACTS).read_text()
    (tmp_path / "run" / HEAD_FACTS).write_text(facts.replace('"a",', ""))
    with pytest.raises(ValueError, match="2 outputs and 1 class names"):
        load_classifier(str(tmp_path / "run"))
    for backbone in (str(tmp_path / "vit"), "timm:vit_tiny_patch16_224"):
        with pytest.raises(DoesNotApplyError, match="has no trained classifier"):
            load_classifier(backbone)


def test_a_backbone_without_head_is_refused_in_one_line_without_a_table_of_weights(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    SynCoModel(SynCoConfig(backbone="vit-nano")).save_pretrained(tmp_path)
    AutoModelForImageClassification.from_pretrained(tmp_path)
    assert "classifier.weight" in caplog.text  # what transformers says by itself
    caplog.clear()
    with pytest.raises(DoesNotApplyError, match="has no trained classifier"):
        load_classifier(str(tmp_path))
    assert caplog.text == ""


def test_a_head_comes_along_where_there_is_one(tmp_path):
    torch.manual_seed(2)
    network, images = SynCoModel(SynCoConfig(backbone="vit-nano")).eval(), torch.randn(2, 3, 32, 32)
    head = LinearHead(torch.randn(3, network.config.hidden_size), torch.randn(3), ("fern", "tree", "leaf"))
    save_classifier(tmp_path / "headed", "mine", network, image_processor(32), head)
    network.save_pretrained(tmp_path / "bare")
    image_processor(32).save_pretrained(tmp_path / "bare")
    bare, _ = load_with_head(str(tmp_path / "bare"))
    assert isinstance(bare, SynCoModel)
    headed, processor = load_with_head(str(tmp_path / "headed"))
    assert processor.crop_size["height"] == 32
    assert not headed.training
    with torch.no_grad():
        chosen = (network(images).pooler_output @ head.weight.T + head.bias).argmax(dim=1)
        said = class_score(headed, images).descriptions
    assert said == [f"score of predicted class {head.class_names[index]}" for index in chosen]
    torch.testing.assert_close(attention_maps(headed, images).cls, attention_maps(bare, images).cls)
    # A configuration that promises a head without its weights must not give a random one.
    bare_config = (tmp_path / "headed" / "config.json").read_text()
    (tmp_path / "bare" / "config.json").write_text(bare_config)
    assert isinstance(load_with_head(str(tmp_path / "bare"))[0], SynCoModel)


def test_the_head_on_a_foreign_backbone_is_looked_through(tmp_path):
    torch.manual_seed(3)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    network, images = ViTModel(config, add_pooling_layer=False).eval(), torch.randn(2, 3, 32, 32)
    network.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    head = LinearHead(torch.randn(2, 16), torch.randn(2), ("a", "b"))
    save_classifier(tmp_path / "run", str(tmp_path / "vit"), network, image_processor(32), head)
    model, _ = load_with_head(str(tmp_path / "run"))
    with torch.no_grad():
        score = class_score(model, images)
        logits = network(images).last_hidden_state[:, 0] @ head.weight.T + head.bias
    torch.testing.assert_close(score.values, logits.max(dim=1).values)
    assert score.descriptions == [f"score of predicted class {'ab'[index]}" for index in logits.argmax(dim=1)]
    torch.testing.assert_close(attention_maps(model, images).cls, attention_maps(network, images).cls)


def test_what_a_probe_of_a_foreign_backbone_left_serves_as_model_from_anywhere(tmp_path, monkeypatch):
    torch.manual_seed(4)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    network = ViTModel(config, add_pooling_layer=False).eval()
    network.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    monkeypatch.chdir(tmp_path)
    for run, trained_on in (("first", "vit"), ("second", "first")):
        head = LinearHead(torch.randn(2, 16), torch.randn(2), ("a", "b"))
        save_classifier(tmp_path / run, trained_on, network, image_processor(32), head)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    images = torch.randn(2, 3, 32, 32)
    for run in ("first", "second"):
        backbone, _ = load_model(f"../{run}")
        classifier, _, _ = load_classifier(f"../{run}")
        with torch.no_grad():
            expected = network(images).last_hidden_state
            torch.testing.assert_close(backbone(images).last_hidden_state, expected)
            torch.testing.assert_close(classifier.base_model(images).last_hidden_state, expected)


def test_a_family_that_an_auto_class_does_not_know_is_named_in_one_line(tmp_path):
    config = FlavaImageConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32)
    FlavaImageModel(config).save_pretrained(tmp_path)
    ViTImageProcessor().save_pretrained(tmp_path)
    for load, auto_class in ((load_model, "AutoModel"), (load_classifier, "AutoModelForImageClassification")):
        with pytest.raises(
            DoesNotApplyError, match=f": {auto_class} has no network for its FlavaImageConfig"
        ) as error:
            load(str(tmp_path))
        assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked(tmp_path, monkeypatch):
    classes = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": classes}))
    (tmp_path / "configuration_own.py").write_text("raise SystemExit('run')")
    monkeypatch.setattr("builtins.input", lambda *words: pytest.fail("asked"))
    with pytest.raises(ValueError, match=r"brings code of its own, which no command runs: choose .*evaluate_knn"):
        load_model(str(tmp_path))


def test_a_family_of_another_version_of_transformers_is_named_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "frobnet", "architectures": ["FrobModel"]}))
    with pytest.raises(DoesNotApplyError, match=r"is of the family 'frobnet', which transformers .* does not know"):
        load_model(str(tmp_path))


def test_a_network_without_an_image_processor_is_told_how_to_get_one(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"has no image processor .*ViTImageProcessor.*synco-hub convert"):
        load_model(str(tmp_path))
    ViTImageProcessor().save_pretrained(tmp_path)
    load_model(str(tmp_path))
