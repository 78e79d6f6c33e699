"""Published and loaded back through the real client, bit for bit: with the package, and without it.

The loading side runs in processes of their own with empty caches, as a stranger's computer would.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from synco_hub.hub.card.model_card import refresh_card
from synco_hub.hub.publication.publish import publish, upload_plan
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor

REPO = "tester/round-trip"
# Refuses this project's packages, wherever they are installed.
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"synco_hub", "trainers", "space_app"}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""
LOADING = """
import hashlib, json, sys
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

repo, picture, options = sys.argv[1], Image.open(sys.argv[2]), json.loads(sys.argv[3])

def digest(tensors):
    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()

torch.set_num_threads(1)
model = AutoModel.from_pretrained(repo, **options).eval()
processor = AutoImageProcessor.from_pretrained(repo, **options)
with torch.no_grad():
    feature = model(**processor(picture, return_tensors="pt")).pooler_output
pooled = pipeline("image-feature-extraction", model=repo, pool=True, **options)(picture)
classifier = AutoModelForImageClassification.from_pretrained(repo, **options)
print("RESULT" + json.dumps({
    "weights": digest(model.state_dict()),
    "feature": digest({"": feature}),
    "pooled": torch.tensor(pooled).flatten().tolist(),
    "classifier": type(classifier).__name__,
    "module": type(model).__module__.split(".")[0],
    "trainable": [name for name, value in model.named_parameters() if not value.requires_grad],
}))
"""


def digest(tensors) -> str:
    import hashlib

    total = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        total.update(name.encode() + value.detach().contiguous().numpy().tobytes())
    return total.hexdigest()


def loaded_elsewhere(hub, tmp_path: Path, program: str, options: dict) -> dict:
    """Run the loading program in a fresh process with an empty cache."""
    from loopback_hub.server import TOKEN

    kept = ("PATH", "PYTHONPATH", "OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    environment = {key: os.environ[key] for key in kept if key in os.environ}
    environment |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HOME": str(tmp_path / "hf-home"), "HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, REPO, str(tmp_path / "picture.png"), json.dumps(options)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT")[1])


@pytest.mark.parametrize("with_package", [True, False])
@pytest.mark.parametrize("backbone", ["vit-nano", pytest.param("swin-nano", marks=pytest.mark.slow)])
def test_loaded_elsewhere_it_is_the_same_to_the_bit(backbone, with_package, hub, hub_api, tmp_path):
    torch.manual_seed(7)
    torch.set_num_threads(1)
    model = SynCoModel(SynCoConfig(backbone=backbone)).eval()
    directory = tmp_path / "run"
    model.save_pretrained(directory)
    image_processor(32).save_pretrained(directory)
    refresh_card(directory, REPO, licence="apache-2.0")
    publish(upload_plan(directory, REPO), REPO, private=True, api=hub_api)
    pixels = np.random.default_rng(7).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    with torch.no_grad():
        inputs = image_processor(32)(Image.fromarray(pixels), return_tensors="pt")
        feature = model(**inputs).pooler_output

    program = ("import synco_hub\n" if with_package else BLOCKER) + LOADING
    found = loaded_elsewhere(hub, tmp_path, program, {} if with_package else {"trust_remote_code": True})
    assert found["weights"] == digest(model.state_dict())
    assert found["feature"] == digest({"": feature})
    assert found["pooled"] == feature.flatten().tolist()
    assert found["classifier"] == "SynCoForImageClassification"
    assert found["module"] == ("synco_hub" if with_package else "transformers_modules")
    assert found["trainable"] == (["backbone.pos_embed"] if backbone == "vit-nano" else [])


def test_a_classifier_keeps_its_head_and_its_class_names(hub, hub_api, tmp_path):
    config = SynCoConfig(backbone="vit-nano", id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    classifier = SynCoForImageClassification(config).eval()
    classifier.save_pretrained(tmp_path / "run")
    image_processor(32).save_pretrained(tmp_path / "run")
    refresh_card(tmp_path / "run", REPO, licence="apache-2.0")
    publish(upload_plan(tmp_path / "run", REPO), REPO, api=hub_api)
    folder = hub_api.snapshot_download(REPO, local_dir=tmp_path / "copy")
    loaded = SynCoForImageClassification.from_pretrained(folder)
    assert loaded.config.id2label == {0: "cat", 1: "dog"}
    assert digest(loaded.state_dict()) == digest(classifier.state_dict())
    assert "pipeline_tag: image-classification" in (Path(folder) / "README.md").read_text()


def test_deit_s_is_published_in_seconds(hub, hub_api, tmp_path, record_property):
    """87 MB; the time is reported, not asserted."""
    SynCoModel(SynCoConfig(backbone="deit-s")).save_pretrained(tmp_path / "run")
    image_processor(224).save_pretrained(tmp_path / "run")
    refresh_card(tmp_path / "run", REPO, licence="apache-2.0")
    started = time.perf_counter()
    publish(upload_plan(tmp_path / "run", REPO), REPO, api=hub_api)
    seconds = time.perf_counter() - started
    record_property("seconds", seconds)
    print(f"DeiT-S checked and published in {seconds:.1f} s")
    assert hub.files(REPO)["model.safetensors"] == (tmp_path / "run" / "model.safetensors").read_bytes()
