import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTImageProcessor,
    pipeline,
)
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.hub.registration import register
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor


def _photographs(seed: int) -> list[Image.Image]:
    generator = np.random.default_rng(seed)
    return [Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)) for size in ((40, 52, 3), (64, 33, 3))]


def test_the_auto_classes_know_the_model_type():
    config = AutoConfig.for_model("synco", backbone="vit-nano")
    assert type(config) is SynCoConfig
    assert type(AutoModel.from_config(config)) is SynCoModel
    assert type(AutoModelForImageClassification.from_config(config)) is SynCoForImageClassification


def test_registering_again_changes_nothing():
    for _ in range(2):
        register()
    test_the_auto_classes_know_the_model_type()


def test_the_image_processor_is_known_by_the_model_type_and_is_the_fast_one(tmp_path):
    assert IMAGE_PROCESSOR_MAPPING[SynCoConfig] == {"torchvision": ViTImageProcessor}
    SynCoConfig("vit-nano").save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    written = tmp_path / "preprocessor_config.json"
    settings = json.loads(written.read_text())
    assert settings.pop("image_processor_type") == "ViTImageProcessor"
    written.write_text(json.dumps(settings))  # now only the model type tells the class
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is ViTImageProcessor
    assert processor.crop_size["height"] == 32


AUTO = "from transformers import AutoModel, AutoConfig, AutoImageProcessor"
CHECK = """
import sys
model = AutoModel.from_pretrained(sys.argv[1])
assert type(model).__module__ == "synco_hub.models.modeling_synco"
assert type(AutoConfig.from_pretrained(sys.argv[1])) is type(model.config)
assert AutoImageProcessor.from_pretrained(sys.argv[1]).crop_size["height"] == 32
assert not {"datasets", "evaluate", "gradio", "torchattacks"} & set(sys.modules)
"""


@pytest.mark.parametrize(
    "imports",
    [
        # The usual order: registration happens while transformers is still importing itself.
        f"import synco_hub; {AUTO}",
        pytest.param(f"from synco_hub import SynCoModel; {AUTO}", marks=pytest.mark.slow),
        pytest.param(f"from synco_hub.models import SynCoConfig; {AUTO}", marks=pytest.mark.slow),
        pytest.param(f"{AUTO}; import synco_hub", marks=pytest.mark.slow),
    ],
)
def test_every_order_of_imports_registers(imports, tmp_path):
    SynCoModel(SynCoConfig("vit-nano", depth=1)).save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    finished = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{CHECK}", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]


@pytest.mark.parametrize("backbone", ["vit-nano", "swin-nano"])
def test_pipeline_of_features(backbone, tmp_path):
    torch.manual_seed(3)
    model = SynCoModel(SynCoConfig(backbone)).eval()
    model.save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    images = _photographs(4)
    features = pipeline("image-feature-extraction", model=str(tmp_path), pool=True, return_tensors=True)(images)
    tokens = pipeline("image-feature-extraction", model=str(tmp_path))(images[0])
    with torch.no_grad():
        for image, feature in zip(images, features, strict=True):
            expected = model(image_processor(32)(image, return_tensors="pt")["pixel_values"])
            torch.testing.assert_close(feature, expected.pooler_output, rtol=1e-5, atol=1e-5)
        expected = model(image_processor(32)(images[0], return_tensors="pt")["pixel_values"]).last_hidden_state
    torch.testing.assert_close(torch.tensor(tokens), expected, rtol=1e-5, atol=1e-5)


def test_pipeline_of_classes(tmp_path):
    torch.manual_seed(5)
    labels = {0: "ibex", 1: "chough", 2: "pika"}
    model = SynCoForImageClassification(SynCoConfig("vit-nano", id2label=labels)).eval()
    model.save_pretrained(tmp_path)
    image_processor(32).save_pretrained(tmp_path)
    image = _photographs(6)[0]
    found = pipeline("image-classification", model=str(tmp_path))(image)
    with torch.no_grad():
        logits = model(image_processor(32)(image, return_tensors="pt")["pixel_values"]).logits[0].double()
    odds = logits.exp() / logits.exp().sum()
    assert [entry["label"] for entry in found] == [labels[i] for i in odds.argsort(descending=True).tolist()]
    assert [entry["score"] for entry in found] == pytest.approx(sorted(odds.tolist(), reverse=True), abs=1e-5)
