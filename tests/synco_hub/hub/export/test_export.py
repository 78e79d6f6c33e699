import json
import subprocess
import sys
import textwrap

import pytest
import torch
from foreign_checkpoints import randomised
from safetensors.torch import load_file
from transformers import AutoModel

import synco_hub  # noqa: F401  (registers the model type)
from synco_hub.hub.conversion.convert import convert
from synco_hub.hub.export.export import FORMATS, export
from synco_hub.hub.export.network import make_fixed_input
from synco_hub.models import SynCoConfig, SynCoForImageClassification, SynCoModel, image_processor

AUTHORS_EPS = {
    "block_attention": 1e-6,
    "block_mlp": 1e-5,
    "patch_embedding": 1e-6,
    "patch_merging": 1e-6,
    "final": 1e-6,
}


def checkpoint(directory, backbone, seed=0, classes=None, **numbers):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        labels = {"id2label": {i: f"kind {i}" for i in range(classes)}} if classes else {}
        config = SynCoConfig(backbone, **numbers, **labels)
        model = SynCoForImageClassification(config) if classes else SynCoModel(config)
    randomised(model, seed)
    model.freeze_fixed_parameters()
    model.save_pretrained(directory)
    image_processor(model.config.image_size).save_pretrained(directory)
    return model.eval()


@torch.no_grad()
def expected(model, batch=2):
    images = make_fixed_input(3, model.config.image_size, model.config.image_size, batch)
    outputs = model(images)
    return outputs.logits if hasattr(outputs, "logits") else outputs.pooler_output


WITHOUT_US = """
import importlib.abc, json, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("synco_hub", "trainers"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import torch
generator = torch.Generator().manual_seed(20240521)
images = torch.randn(2, 3, 32, 32, generator=generator)
directory = sys.argv[1]
with torch.no_grad():
{body}
assert not any(name.startswith("synco_hub") for name in sys.modules)
torch.save(result, sys.argv[2])
"""


def elsewhere(tmp_path, directory, body):
    """Run code where this package cannot be imported."""
    code = WITHOUT_US.replace("{body}", textwrap.indent(textwrap.dedent(body), "    "))
    command = [sys.executable, "-c", code, str(directory), str(tmp_path / "result.pt")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    return torch.load(tmp_path / "result.pt", weights_only=True)


def test_stock_vit_and_swin_and_timm_load_without_this_package(tmp_path):
    backbones = {"vit": "vit-nano", "swin": "swin-nano"}
    models = {name: checkpoint(tmp_path / name, backbone, 3) for name, backbone in backbones.items()}
    models["classifier"] = checkpoint(tmp_path / "classifier", "vit-nano", 4, classes=5)
    for name in models:
        export(str(tmp_path / name), tmp_path / f"{name}-stock", "transformers")
        export(str(tmp_path / name), tmp_path / f"{name}-timm", "timm")
    result = elsewhere(
        tmp_path,
        tmp_path,
        """
        import timm
        from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification
        vit = AutoModel.from_pretrained(directory + "/vit-stock", add_pooling_layer=False).eval()
        swin = AutoModel.from_pretrained(directory + "/swin-stock").eval()
        classifier = AutoModelForImageClassification.from_pretrained(directory + "/classifier-stock").eval()
        AutoImageProcessor.from_pretrained(directory + "/vit-stock")
        result = {
            "vit-stock": vit(images).last_hidden_state[:, 0],
            "swin-stock": swin(images).pooler_output,
            "classifier-stock": classifier(images).logits,
            "classes": [type(model).__name__ for model in (vit, swin, classifier)],
            "label": classifier.config.id2label[3],
        }
        for name in ("vit", "swin", "classifier"):
            network = timm.create_model("local-dir:" + directory + f"/{name}-timm", pretrained=True).eval()
            result[name + "-timm"] = network(images)
        """,
    )
    assert result["classes"] == ["ViTModel", "SwinModel", "ViTForImageClassification"]
    assert result["label"] == "kind 3"
    for name, model in models.items():
        for kind in ("stock", "timm"):
            assert (result[f"{name}-{kind}"] - expected(model)).abs().max() <= 1e-5, (name, kind)
    assert not list((tmp_path / "vit-stock").glob("*.py"))


@pytest.mark.parametrize("format_name", ["transformers", "timm"])
def test_several_epsilons_are_told_with_the_difference(tmp_path, format_name):
    model = checkpoint(tmp_path / "model", "swin-nano", 1, layer_norm_eps=AUTHORS_EPS)
    # Small activations make the epsilon visible.
    model.backbone.layers[0].blocks[0].norm2.weight.data.fill_(1.0)
    model.backbone.patch_embed.norm.weight.data *= 3e-3
    model.save_pretrained(tmp_path / "model")
    report = export(str(tmp_path / "model"), tmp_path / "out", format_name)
    assert report.exact is False
    assert f"{report.difference:.1e}" in report.note
    assert report.difference > 1e-6
    readme = (tmp_path / "out" / "README.md").read_text()
    assert report.note in readme
    if format_name == "timm":
        # What the card says to do makes it exact.
        code = report.how_to_load.replace("local-dir:out", f"local-dir:{tmp_path / 'out'}")
        scope = {"images": make_fixed_input(3, 32, 32)}
        with torch.no_grad():
            exec(code, scope)
        assert (scope["features"] - expected(model)).abs().max() <= 1e-6


@pytest.mark.parametrize("backbone", ["vit-nano", pytest.param("swin-nano", marks=pytest.mark.slow)])
def test_onnx_runs_at_any_batch_size(tmp_path, backbone):
    onnxruntime = pytest.importorskip("onnxruntime")
    classes = 3 if backbone == "vit-nano" else None
    model = checkpoint(tmp_path / "model", backbone, 2, classes=classes)
    report = export(str(tmp_path / "model"), tmp_path / "out", "onnx")
    assert report.difference <= 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    name = "logits" if classes else "pooler_output"
    for batch in (1, 5):
        images = make_fixed_input(3, 32, 32, batch)
        found = torch.from_numpy(session.run([name], {"pixel_values": images.numpy()})[0])
        assert (found - expected(model, batch)).abs().max() <= 1e-4
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()


@pytest.mark.parametrize("format_name", ["transformers", "timm", "safetensors"])
@pytest.mark.parametrize(
    ("backbone", "numbers"),
    [
        ("vit-nano", {"num_heads": 6}),
        ("vit-nano", {"position_embedding": "learned", "layer_norm_eps": 1e-5}),
        ("swin-nano", {}),
        ("vit-nano", {"classes": 4}),
        ("swin-nano", {"classes": 4}),
    ],
)
def test_there_and_back_is_the_same(tmp_path, format_name, backbone, numbers):
    model = checkpoint(tmp_path / "model", backbone, 5, **numbers)
    export(str(tmp_path / "model"), tmp_path / "out", format_name)
    source = tmp_path / "out" / "backbone.safetensors" if format_name == "safetensors" else tmp_path / "out"
    if format_name == "timm" and "layer_norm_eps" in numbers:
        assert json.loads((tmp_path / "out" / "export_report.json").read_text())["exact"] is False
    convert(str(source), tmp_path / "back")
    first, second = (load_file(tmp_path / place / "model.safetensors") for place in ("model", "back"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    again = type(model).from_pretrained(tmp_path / "back").eval()
    assert torch.equal(expected(again), expected(model))
    for name in ("backbone", "num_heads", "image_size", "position_embedding", "layer_norm_eps", "window_size"):
        assert getattr(again.config, name) == getattr(model.config, name), name
    assert again.config.id2label == model.config.id2label


def test_stock_models_made_elsewhere_are_converted(tmp_path):
    """A stock network that transformers itself drew, not one of our exports."""
    from transformers import SwinConfig, SwinModel, ViTConfig, ViTModel

    sizes = {"image_size": 32, "num_channels": 3}
    vit_sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    stock_vit = ViTModel(ViTConfig(patch_size=8, **vit_sizes, **sizes))
    swin_sizes = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "patch_size": 2}
    stock_swin = SwinModel(SwinConfig(**swin_sizes, **sizes))
    for name, stock in {"vit": stock_vit, "swin": stock_swin}.items():
        randomised(stock, 6).save_pretrained(tmp_path / name)
        report = convert(str(tmp_path / name), tmp_path / f"{name}-ours")
        assert report.layout["name"] == "transformers"
        ours = AutoModel.from_pretrained(tmp_path / f"{name}-ours").eval()
        images = make_fixed_input(3, 32, 32)
        with torch.no_grad():
            outputs = stock(images)
            feature = outputs.last_hidden_state[:, 0] if name == "vit" else outputs.pooler_output
            assert (ours(images).pooler_output - feature).abs().max() <= 1e-5


def test_what_cannot_be_exported_is_refused_and_nothing_is_left(tmp_path):
    checkpoint(tmp_path / "model", "vit-nano")
    with pytest.raises(ValueError, match=r"format='onx' is unknown.*Did you mean 'onnx'"):
        export(str(tmp_path / "model"), tmp_path / "out", "onx")
    with pytest.raises(ValueError, match="is not an empty folder"):
        export(str(tmp_path / "model"), tmp_path / "model", "timm")
    export(str(tmp_path / "model"), tmp_path / "stock", "transformers")
    with pytest.raises(ValueError, match="not one of this package: convert it first"):
        export(str(tmp_path / "stock"), tmp_path / "out", "timm")
    with pytest.raises(ValueError, match="synco-hub convert timm:test_vit --output"):
        export("timm:test_vit", tmp_path / "out", "timm")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds an adapter, not a whole network: merge it first"):
        export(str(tmp_path / "adapter"), tmp_path / "out", "timm")
    small = {"image_size": 64, "depth": [1, 1], "num_heads": [3, 6], "window_size": 4, "embed_dim": 24}
    checkpoint(tmp_path / "second", "swin-v2-t", **small)
    with pytest.raises(ValueError, match="Swin of the second version"):
        export(str(tmp_path / "second"), tmp_path / "out", "transformers")
    checkpoint(tmp_path / "scaled", "deit3_small_patch16_224", depth=1)
    with pytest.raises(ValueError, match=r"no place in transformers' stock vit model \(first: \['blocks.0.ls1"):
        export(str(tmp_path / "scaled"), tmp_path / "out", "transformers")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))
    assert set(FORMATS) == {"transformers", "timm", "onnx", "safetensors", "sentence-transformers"}


def test_the_licence_goes_along(tmp_path):
    checkpoint(tmp_path / "model", "vit-nano")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n# card\n")
    export(str(tmp_path / "model"), tmp_path / "out", "safetensors")
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("format_name", ["transformers", "timm", "onnx"])
@pytest.mark.parametrize("backbone", ["deit-s", "swin-t"])
def test_full_size(tmp_path, backbone, format_name):
    checkpoint(tmp_path / "model", backbone)
    report = export(str(tmp_path / "model"), tmp_path / "out", format_name)
    assert report.difference <= {"onnx": 1e-4}.get(format_name, 1e-5)
