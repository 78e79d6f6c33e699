"""Export for sentence-transformers: the files, and what its `encode` gives beside the pair of model and processor."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from composed_pictures import draw_photographs
from foreign_checkpoints import randomised
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.hub.export.export import export
from synco_hub.hub.export.to_sentence_transformers import export_sentence_transformers
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor

STOCK = {"vit-nano": ("last_hidden_state", "token_embeddings"), "swin-nano": ("pooler_output", "sentence_embedding")}


def checkpoint(directory, backbone="vit-nano", classes=None, **numbers):
    torch.manual_seed(0)
    labels = {"id2label": {k: f"kind {k}" for k in range(classes)}} if classes else {}
    config = SynCoConfig(backbone, **numbers, **labels)
    model = SynCoForImageClassification(config) if classes else SynCoModel(config)
    randomised(model, 0)
    model.save_pretrained(directory)
    # Not ImageNet's numbers: a wrong processor is seen.
    processor = image_processor(32)
    processor.image_mean, processor.image_std = [0.1, 0.5, 0.7], [0.3, 0.2, 0.4]
    processor.save_pretrained(directory)
    return directory


def pictures():
    """Wide, high, grey, with alpha, with a palette."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (70, 51, 3), dtype=np.uint8))
    wide = colours.resize((140, 60))
    return [colours, wide, wide.convert("L"), colours.convert("RGBA"), wide.convert("P"), *draw_photographs()[:1]]


@torch.no_grad()
def features(directory):
    model, processor = AutoModel.from_pretrained(directory).eval(), AutoImageProcessor.from_pretrained(directory)
    return torch.cat([model(**processor(each, return_tensors="pt")).pooler_output for each in pictures()]).numpy()


@pytest.mark.parametrize("backbone", STOCK)
@pytest.mark.parametrize("classes", [None, 3])
def test_a_stock_model_and_what_the_library_reads_beside_it(backbone, classes, tmp_path):
    checkpoint(tmp_path / "in", backbone, classes)
    report = export(str(tmp_path / "in"), tmp_path / "out", "sentence-transformers")
    loading = json.loads((tmp_path / "out/sentence_bert_config.json").read_text())
    output, feature = STOCK[backbone]
    assert loading["modality_config"] == {"image": {"method": "forward", "method_output_name": output}}
    assert loading["module_output_name"] == feature
    modules = json.loads((tmp_path / "out/modules.json").read_text())
    assert [each["path"] for each in modules] == ["", "1_Pooling"][: 2 if backbone == "vit-nano" else 1]
    assert (tmp_path / "out/1_Pooling").is_dir() == (backbone == "vit-nano")
    assert json.loads((tmp_path / "out/config.json").read_text())["model_type"] in ("vit", "swin")
    assert not list((tmp_path / "out").rglob("*.py"))
    assert report.difference < 1e-5
    assert 'SentenceTransformer("out")' in report.how_to_load
    card = (tmp_path / "out/README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "It needs no code of that package" in card


def test_what_no_stock_model_computes_brings_its_code(tmp_path):
    checkpoint(tmp_path / "in", layer_norm_eps={"block_mlp": 1e-3})
    report = export(str(tmp_path / "in"), tmp_path / "out", "sentence-transformers")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".py", ".safetensors"}
    assert "auto_map" in json.loads((tmp_path / "out/config.json").read_text())
    assert "trust_remote_code=True" in report.how_to_load
    assert "needs timm" in report.note
    assert "It needs no code of that package" not in (tmp_path / "out/README.md").read_text()
    assert export_sentence_transformers.__doc__


def test_views_that_the_network_does_not_take_are_told(tmp_path):
    checkpoint(tmp_path / "in")
    image_processor(48).save_pretrained(tmp_path / "in")
    with pytest.raises(ValueError, match="gives views of 48 x 48 pixels and its network takes 32 x 32"):
        export(str(tmp_path / "in"), tmp_path / "out", "sentence-transformers")
    assert not (tmp_path / "out").exists()


@pytest.mark.extras
def test_grey_pictures(tmp_path):
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(0)
    model = SynCoModel(SynCoConfig("vit-nano", num_channels=1)).eval()
    model.save_pretrained(tmp_path / "in")
    image_processor(32, 1).save_pretrained(tmp_path / "in")
    export(str(tmp_path / "in"), tmp_path / "out", "sentence-transformers")
    grey = pictures()[0].convert("L")
    with torch.no_grad():
        expected = model(**image_processor(32, 1)(grey, return_tensors="pt")).pooler_output[0].numpy()
    found = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(grey, show_progress_bar=False)
    assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.extras
@pytest.mark.parametrize("backbone", STOCK)
@pytest.mark.parametrize("classes", [None, 3])
def test_encode_gives_the_pairs_pooler_output(backbone, classes, tmp_path):
    from sentence_transformers import SentenceTransformer

    checkpoint(tmp_path / "in", backbone, classes)
    report = export(str(tmp_path / "in"), tmp_path / "out", "sentence-transformers")
    assert "not tried" not in report.note
    model = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    expected = features(tmp_path / "in")
    together = model.encode(pictures(), show_progress_bar=False)
    assert together == pytest.approx(expected, abs=2e-5)
    assert model.encode(pictures()[0], show_progress_bar=False) == pytest.approx(expected[0], abs=2e-5)
    assert model.get_embedding_dimension() == expected.shape[1]
    cosine = (expected / np.linalg.norm(expected, axis=1, keepdims=True)) @ (expected[0] / np.linalg.norm(expected[0]))
    assert model.similarity(together, together[:1])[:, 0].numpy() == pytest.approx(cosine, abs=1e-5)


ELSEWHERE = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("synco_hub", "trainers"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
sys.modules.update(dict.fromkeys(sys.argv[3:]))  # as if they were not installed
import numpy
from PIL import Image
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu", trust_remote_code="timm" not in sys.argv)
numpy.save(sys.argv[2], model.encode([Image.open("image.png")], show_progress_bar=False))
assert not any(name.startswith("synco_hub") for name in sys.modules)
"""


@pytest.mark.extras
@pytest.mark.parametrize(("numbers", "blocked"), [({}, ["timm"]), ({"layer_norm_eps": {"block_mlp": 1e-3}}, [])])
def test_it_loads_where_this_package_cannot_be_imported(numbers, blocked, tmp_path):
    checkpoint(tmp_path / "in", **numbers)
    export(str(tmp_path / "in"), tmp_path / "out", "sentence-transformers")
    pictures()[0].save(tmp_path / "image.png")
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path / "out"), str(tmp_path / "vectors.npy"), *blocked]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=offline)
    assert done.returncode == 0, done.stderr[-3000:]
    assert np.load(tmp_path / "vectors.npy")[0] == pytest.approx(features(tmp_path / "in")[0], abs=2e-5)


@pytest.mark.extras
def test_the_library_saves_it_again(tmp_path):
    from sentence_transformers import SentenceTransformer

    checkpoint(tmp_path / "in")
    export(str(tmp_path / "in"), tmp_path / "out", "sentence-transformers")
    SentenceTransformer(str(tmp_path / "out"), device="cpu").save_pretrained(str(tmp_path / "again"))
    model = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert model.encode(pictures(), show_progress_bar=False) == pytest.approx(features(tmp_path / "in"), abs=2e-5)
